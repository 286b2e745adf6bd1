"""The card of the packaged joint embedding: how it was trained and does."""

import pathlib

from mmdcodec.evaluate import joint, joint_report
from mmdcodec.experiments import tables
from mmdcodec.store import inputs, tensors
from mmdcodec.workflows import packaged_card

_HEAD = """# {name}

A joint embedding of music and text (MuLan, arXiv 2208.12415) with
{levels} codebooks of {codes} codes, for demos and tests, and as a start for
trainings of your own: windows of {seconds:g} s of audio at {rate} Hz and texts
become vectors of {dim} numbers that are near each other where the text
describes the music. {million:.1f} M parameters, stored in 8 bits.

    mmdcodec.load("{name}")
    mmdcodec evaluate joint --model {name} --audio held_out/

It was trained on {songs} built-in songs, which are synthetic, with their
captions and tags, and knows only those. It is not for real music.
"""


def write(workdir: pathlib.Path, name: str, found: joint.Result) -> str:
  """Writes the card.

  Args:
    workdir: folder of the job, see `packaged_joint`.
    name: name of the model.
    found: measures.

  Returns:
    Markdown.
  """
  config = inputs.read_object(workdir / name / "config.json")
  stored = tensors.read(workdir / name / "model.safetensors", "make it again")
  model, training = config["model"], config["training"]
  settings = training["config"]
  levels, codes, _ = stored["codebook/embed"].shape
  head = _HEAD.format(
    name=name,
    levels=levels,
    codes=codes,
    seconds=model["seconds"],
    rate=model["rate"],
    dim=model["dim"],
    million=sum(x.size for k, x in stored.items() if k[:6] == "params") / 1e6,
    songs=len(list((workdir / "music" / "train").glob("*.flac"))),
  )
  parts = [
    head,
    "## Training\n",
    f"- step {training['step']} of {settings['steps']}, each of"
    f" {settings['batch']} clips, begun from"
    f" {settings['init_from'] or 'nothing'}",
    f"- {packaged_card.versions(workdir / 'training')}",
    "- command: `python -m mmdcodec.workflows.packaged_joint WORKDIR`; config"
    f" `{name}`\n",
    "## Measures\n",
    f"{len(found.clips)} clips of built-in songs that it was not trained on.\n",
  ]
  for each in joint_report.tables(found):
    parts += [f"{each.title}. {each.note}\n"]
    rows = [[_plain(cell) for cell in row] for row in each.rows]
    parts += [tables.markdown(each.columns, rows)]
  parts += [
    "\n## Music\n",
    "Built-in songs (CC0-1.0), rendered by `mmdcodec.audio.song_files`.\n",
  ]
  return "\n".join(parts)


def _plain(cell: object) -> object:
  return f"{cell:.4g}" if isinstance(cell, float) else cell
