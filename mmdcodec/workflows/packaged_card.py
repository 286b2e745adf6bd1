"""The card of the packaged codec: what it was trained on and how it does."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.experiments import tables
from mmdcodec.store import inputs, tensors

_HEAD = """# {name}

A codec of {rate} Hz mono with {codebooks} codebooks of {size} codes at 50 Hz
({kbps:.1f} kbps; fewer codebooks for less), for demos and tests, and as a start
for trainings of your own. {million:.1f} M parameters, stored in bfloat16, those
of the decoder in 8 bits.

    mmdcodec.load("{name}")
    mmdcodec encode song.mp3 song.mmdc --model {name}

It was trained on {songs} built-in songs, which are synthetic, and {hours:.1f}
hours of openly licensed music, listed below. The codes hold no phases: what is
decoded sounds alike, but is not the waveform, so SI-SDR says nothing. It is not
for archives and not for speech.
"""


def write(
  workdir: pathlib.Path,
  name: str,
  found: Mapping[str, Any],
  rows: Sequence[Mapping[str, str]],
) -> str:
  """Writes the card.

  Args:
    workdir: folder of the job, see `packaged_models`.
    name: name of the model.
    found: measures, see `packaged_measures`.
    rows: rows of the manifest that were used.

  Returns:
    Markdown.
  """
  config = inputs.read_object(workdir / name / "config.json")
  model, trained = config["model"], [r for r in rows if r["split"] == "train"]
  books, size = model["codebooks"], model["codebook_size"]
  stored = tensors.read(workdir / name / "model.safetensors", "make it again")
  songs = list((workdir / "music/songs/train").glob("*.flac"))
  head = _HEAD.format(
    name=name,
    rate=model["rate"],
    codebooks=books,
    size=size,
    kbps=50 * books * math.log2(size) / 1000,
    million=sum(x.size for k, x in stored.items() if k[:6] == "params") / 1e6,
    songs=len(songs),
    hours=sum(float(row["seconds"]) for row in trained) / 3600,
  )
  parts = [head, _training(workdir, config), "## Measures\n"]
  parts += ["All on music that was not trained on.\n"]
  parts += [_reconstruction(found["reconstruction"])]
  parts += [_dependence(found["dependence"])]
  parts += ["## Music\n", _attribution(rows)]
  return "\n".join(parts)


def _training(workdir: pathlib.Path, config: Mapping[str, Any]) -> str:
  """How long the training was, and on which versions."""
  training = config["training"]
  settings = training["config"]
  begun = settings["init_from"] or "nothing"
  lines = ["## Training\n"]
  lines.append(
    f"- {training['step']} steps of {settings['batch']} x"
    f" {settings['data']['seconds']:g} s, begun from {begun}"
    + (", of the decoder alone" if settings.get("freeze") else "")
  )
  lines.append(f"- {versions(workdir / 'codec')}")
  lines.append(
    "- command: `python -m mmdcodec.workflows.packaged_models MUSIC WORKDIR`;"
    " config `small`\n"
  )
  return "\n".join(lines)


def versions(training: pathlib.Path) -> str:
  """The program that a training ran with."""
  last = inputs.read_object(training / "starts.json")["starts"][-1]
  found = ", ".join(f"{k} {v}" for k, v in last["versions"].items())
  return f"commit {last['commit']}; {found}"


def _reconstruction(found: Mapping[str, Mapping[str, Any]]) -> str:
  columns = ["music", "codec", "kbps"]
  columns += [heading for heading, _ in clips_lib.COLUMNS.values()]
  heard = any(
    "visqol" in each for row in found.values() for each in row.values()
  )
  columns += ["ViSQOL"] if heard else []
  columns += ["codes in use"]
  rows = [
    [kind, name, round(values["kbps"], 2)]
    + [round(values[key], 2) for key in clips_lib.COLUMNS]
    + ([f"{values['visqol']:.2f}"] if heard else [])
    + [f"{values['usage']:.0%}" if "usage" in values else ""]
    for kind, codecs in found.items()
    for name, values in codecs.items()
  ]
  return tables.markdown(columns, rows)


def _dependence(found: Mapping[str, Mapping[str, float]]) -> str:
  keys = {
    "entropy": "entropy (bits per frame)",
    "aligned/total_correlation": "total correlation, same frame",
    "together/total_correlation": "total correlation, delayed",
    "together/dhsic": "dHSIC, delayed",
    "together/coded_alone": "coded size alone",
    "together/coded_both": "coded size, all given",
  }
  rows = [
    [name, *(f"{values[key]:.4g}" for key in keys)]
    for name, values in found.items()
  ]
  return "\nDependence of the codes, built-in music, bits per frame:\n\n" + (
    tables.markdown(["codec", *keys.values()], rows)
  )


def _attribution(rows: Sequence[Mapping[str, str]]) -> str:
  """Everything that was used, with its licence."""
  return "\n".join(
    f"- {row['split']}: {row['title']}, {row['artist']} ({row['licence']})"
    for row in rows
  )
