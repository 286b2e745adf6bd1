"""The card of a packaged music model: how it was trained and how it does."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from mmdcodec.experiments import prompts, tables
from mmdcodec.store import inputs, metrics, tensors
from mmdcodec.workflows import packaged_card

_HEAD = """# {name}

A language model over the first {codebooks} codebooks of the packaged codec
`small`, for demos and tests, and as a start for trainings of your own: prompts
to {seconds:g} s of mono music at 24000 Hz, longer pieces window by window.
{million:.1f} M parameters, stored in 8 bits.

    mmdcodec.load("{name}")
    mmdcodec generate "a fast tune with drums" tune.wav --model {name}

It was trained on {songs} built-in songs of {length:g} s, which are synthetic,
and knows only their instruments, rhythms and words. Its text encoder reads
bytes and learned from the songs' captions alone. It is not for real
music, and not for prompts in other words.
"""


def write(workdir: pathlib.Path, name: str, found: Mapping[str, Any]) -> str:
  """Writes the card.

  Args:
    workdir: folder of the job, see `packaged_music`.
    name: name of the model.
    found: measures, see `packaged_music.measure`.

  Returns:
    Markdown.
  """
  config = inputs.read_object(workdir / name / "config.json")
  model = config["model"]
  stored = tensors.read(workdir / name / "model.safetensors", "make it again")
  songs = list((workdir / "music" / "train").glob("*.flac"))
  about = inputs.read_object(songs[0].with_suffix(".json"))["_request"]
  rate = config["training"]["config"]["data"]["frame_rate"]
  head = _HEAD.format(
    name=name,
    codebooks=model["codebooks"],
    seconds=model["frames"] / rate,
    million=sum(x.size for k, x in stored.items() if k[:6] == "params") / 1e6,
    songs=len(songs),
    length=about["seconds"],
  )
  parts = [head, _training(workdir, config), "## Measures\n"]
  parts += [
    "Pieces made from balanced prompts, guidance 3, judged by classifiers that"
    "\nlearned from other songs, through the codec:\n",
    tables.markdown(*prompts.table(found["prompts"])),
    "\nMean spectral flatness of a piece, 1 for white noise:\n",
    _flatness(found["flatness"]),
    "\n## Music\n",
    "Built-in songs (CC0-1.0), rendered by `mmdcodec.audio.song_files`. The"
    "\ncodec learned from more, see its card.\n",
  ]
  return "\n".join(parts)


def _training(workdir: pathlib.Path, config: Mapping[str, Any]) -> str:
  """How long the training was, and on which versions."""
  training = config["training"]
  settings, folder = training["config"], workdir / "training"
  found, model = _held_out(folder), settings["model"]
  bits = found[training["step"]]
  curve = ", ".join(f"{step} {value:.1f}" for step, value in found.items())
  raw = model["codebooks"] * math.log2(model["codebook_size"])
  return "\n".join(
    [
      "## Training\n",
      f"- step {training['step']} of {settings['steps']}, each of"
      f" {settings['batch']} clips, begun from"
      f" {settings['init_from'] or 'nothing'}",
      f"- {bits:.2f} bits per frame on held-out songs; codes without a model"
      f" have {raw:g}; by step: {curve}",
      f"- {packaged_card.versions(folder)}",
      "- command: `python -m mmdcodec.workflows.packaged_music WORKDIR`; config"
      " `small_music`\n",
    ]
  )


def _held_out(training: pathlib.Path) -> dict[int, float]:
  """Bits per frame on held-out songs, by step."""
  name = "valid/bits_per_frame"
  rows = metrics.read(training)
  return {row["step"]: row[name] for row in rows if name in row}


def _flatness(found: Mapping[str, list[float]]) -> str:
  heads = ["", "least", "5%", "median", "95%", "largest"]
  rows = [[name, *(f"{x:.4f}" for x in q)] for name, q in found.items()]
  return tables.markdown(heads, rows)
