"""The card of the packaged MusicLM: how it was trained and how it does."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from mmdcodec.evaluate import musiclm, pairing
from mmdcodec.experiments import tables
from mmdcodec.store import inputs, metrics, tensors
from mmdcodec.workflows import packaged_card

_HEAD = """# {name}

A MusicLM (arXiv 2301.11325) for demos and tests, and as a start for trainings
of your own: prompts to mono music at 24000 Hz, by way of joint, semantic and
coarse acoustic tokens. {million:.1f} M parameters, stored in 8 bits; the codec
is the packaged `{codec}`, the joint embedding `{joint}`. There is no fine
stage: its music is that of the codec's first {codebooks} codebooks.

    mmdcodec.load("{name}")
    mmdcodec generate "a fast tune with drums" tune.wav --model {name}

It was trained on {songs} built-in songs of {length:g} s, which are synthetic,
and knows only their instruments, rhythms and words. It is not for real music,
and not for prompts in other words.
"""
_WHAT = {
  "semantic": "semantic tokenizer (w2v-BERT)",
  "melody": "melody embedding",
  "semantic_lm": "semantic stage",
  "coarse_lm": "coarse stage",
}


def write(
  workdir: pathlib.Path,
  name: str,
  found: Mapping[str, Any],
  *,
  guidance: float,
  start: str,
) -> str:
  """Writes the card.

  Args:
    workdir: folder of the job, see `packaged_musiclm`.
    name: name of the model.
    found: measures, see `packaged_musiclm.measure`.
    guidance: weight of the prompts in these.
    start: the packaged model that the stages went on from; "" for none.

  Returns:
    Markdown.
  """
  parts = inputs.read_object(workdir / name / "config.json")["parts"]
  stored = tensors.read(workdir / name / "model.safetensors", "make it again")
  songs = list((workdir / "music" / "train").glob("*.flac"))
  about = inputs.read_object(songs[0].with_suffix(".json"))["_request"]
  params = (x.size for key, x in stored.items() if "/params/" in key)
  head = _HEAD.format(
    name=name,
    million=sum(params) / 1e6,
    codec=parts["codec"]["packaged"],
    joint=parts["joint"]["packaged"],
    codebooks=parts["coarse_lm"]["model"]["codebooks"],
    songs=len(songs),
    length=about["seconds"],
  )
  rows = [
    musiclm.pairing_row(what, pairing.Pairing(**found[key]))
    for key, what in (
      ("consistency", "prompts: cosine in the joint embedding"),
      ("melody", "melodies: frames of the same pitch class"),
    )
  ]
  return "\n".join(
    [
      head,
      "## Training\n",
      *(_training(workdir, key, parts[key], start) for key in _WHAT),
      "- command: `python -m mmdcodec.workflows.packaged_musiclm WORKDIR`;"
      " configs `small_musiclm:semantic` and so on\n",
      "## Measures\n",
      f"Pieces from balanced prompts, guidance {guidance:g}, and from melodies"
      " of songs:\n",
      tables.markdown(musiclm.PAIRING_COLUMNS, rows),
      "\n## Music\n",
      "Built-in songs (CC0-1.0), rendered by `mmdcodec.audio.song_files`. Codec"
      "\nand joint embedding learned from more, see their cards.\n",
    ]
  )


def _training(
  workdir: pathlib.Path, key: str, part: Mapping[str, Any], start: str
) -> str:
  """How long the training of a part was, and on which versions."""
  if start and not key.endswith("_lm"):
    return f"- {_WHAT[key]}: that of `{start}`, as it was"
  training, model = part["training"], part["model"]
  settings = training["config"]
  folder = workdir / (key if key.endswith("_lm") else f"{key}_run")
  words = (
    f"- {_WHAT[key]}: step {training['step']} of {settings['steps']}, each of"
    f" {settings['batch']} clips, begun from"
    f" {settings['init_from'] or 'nothing'}"
  )
  measure = "valid/bits_per_frame"
  bits = {
    row["step"]: row[measure] for row in metrics.read(folder) if measure in row
  }
  if (best := bits.get(training["step"])) is not None:
    raw = model["codebooks"] * math.log2(model["codebook_size"])
    words += (
      f"; {best:.2f} bits per frame on held-out songs, of {raw:g} without a"
      " model"
    )
  return f"{words}; {packaged_card.versions(folder)}"
