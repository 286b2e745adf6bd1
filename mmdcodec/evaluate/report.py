"""Writes a report as one self-contained HTML page.

A page is a title and a list of sections of four kinds: `Text`, `Table`,
`Figure` and `Players`. Styles are inline, and images and audio are data URIs,
so the file can be mailed or moved. Audio is 16-bit FLAC, so that no second
lossy codec is involved.
"""

import base64
import dataclasses
import html
import io
import os
import pathlib
import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from mmdcodec import formatting
from mmdcodec.evaluate.report_template import PAGE, STYLE
from mmdcodec.platform import cpus
from mmdcodec.store import atomic, paths

# PNG bytes or the path of a PNG file.
Image = bytes | str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Text:
  """Paragraphs, followed by commands or output in fixed width.

  Attributes:
    title: heading of the section; "" continues the previous section.
    paragraphs: plain text, one string each.
    code: shown verbatim; "" for none.
  """

  title: str
  paragraphs: Sequence[str] = ()
  code: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of numbers and words.

  Attributes:
    title: heading of the section; "" continues the previous section.
    columns: names.
    rows: cells; numbers are shown to at least 3 significant digits.
    note: explanation for the reader.
  """

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[Any]]
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
  """Pictures, side by side if there is room.

  Attributes:
    title: heading of the section; "" continues the previous section.
    images: PNG bytes or paths of PNG files.
    caption: what the pictures show.
  """

  title: str
  images: Sequence[Image]
  caption: str = ""


@dataclasses.dataclass(frozen=True)
class Recording:
  """Audio to play, with a picture below the player.

  Attributes:
    title: title above the player, such as "original".
    samples: [samples] or [samples, channels].
    picture: PNG bytes or path of a PNG file, or None.
  """

  title: str
  samples: np.ndarray
  picture: Image | None = None


@dataclasses.dataclass(frozen=True)
class Clip:
  """Recordings to compare, side by side.

  Attributes:
    name: name of the clip, such as a file or a prompt.
    recordings: from left to right.
    rate: sample rate of all recordings, in Hz.
    detail: a line below the name.
  """

  name: str
  recordings: Sequence[Recording]
  rate: int
  detail: str = ""


@dataclasses.dataclass(frozen=True)
class Players:
  """Audio to listen to, one `Clip` per row.

  Attributes:
    title: heading of the section; "" continues the previous section.
    clips: from top to bottom.
    caption: what to listen for.
  """

  title: str
  clips: Sequence[Clip]
  caption: str = ""


Section = Text | Table | Figure | Players


def write_report(
  path: str | os.PathLike,
  sections: Sequence[Section],
  *,
  title: str = "mmdcodec report",
  lead: str = "",
) -> pathlib.Path:
  """Writes a self-contained HTML page.

  Args:
    path: path of the page, in an existing folder.
    sections: from top to bottom.
    title: title of the page.
    lead: the result in one or two sentences, shown below the title.

  Returns:
    The path.

  Raises:
    TypeError: a section is of an unknown kind.
  """
  path = paths.of(path)
  body = "\n".join(_section(section) for section in sections)
  page = PAGE.format(
    title=html.escape(title),
    lead=f'<p class="lead">{html.escape(lead)}</p>' if lead else "",
    style=STYLE,
    body=body,
  )
  atomic.write_text(path, page)
  return path


def environment() -> Table:
  """Describes the software and the machine that this process runs on."""
  import jax

  rows: list[tuple] = [("Python", platform.python_version())]
  for name in ("mmdcodec", "jax", "jaxlib", "flax", "optax", "numpy"):
    try:
      rows.append((name, metadata.version(name)))
    except metadata.PackageNotFoundError:
      continue
  kinds = sorted({device.device_kind for device in jax.devices()})
  rows += [
    ("system", f"{platform.system()} {platform.machine()}"),
    ("CPU cores", cpus()),
    ("JAX devices", f"{jax.device_count()} x {', '.join(kinds)}"),
  ]
  return Table("Environment", ("what", "version"), rows)


def _section(section: Section) -> str:
  kinds: dict[type, Callable[[Any], str]] = {
    Text: _text, Table: _table, Figure: _figure, Players: _players,
  }  # fmt: skip
  if type(section) not in kinds:
    raise TypeError(f"unknown kind of section: {type(section).__name__}")
  heading = ""
  if section.title:
    heading = f"<h2>{html.escape(section.title)}</h2>"
  inner = kinds[type(section)](section)
  return f"<section>{heading}\n{inner}</section>"


def _text(section: Text) -> str:
  parts = [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
  if section.code:
    parts.append(f"<pre>{html.escape(section.code)}</pre>")
  return "\n".join(parts)


def _table(section: Table) -> str:
  head = "".join(f"<th>{html.escape(name)}</th>" for name in section.columns)
  rows = []
  for row in section.rows:
    cells = []
    for cell in row:
      number = isinstance(cell, (int, float, np.integer, np.floating))
      kind = ' class="number"' if number else ""
      cells.append(f"<td{kind}>{html.escape(formatting.cell(cell))}</td>")
    rows.append("<tr>" + "".join(cells) + "</tr>")
  note = _caption(section.note, "p")
  return (
    f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>'
    + "\n".join(rows)
    + f"</tbody></table></div>{note}"
  )


def _figure(section: Figure) -> str:
  images = "\n".join(
    _image(image, section.caption or section.title) for image in section.images
  )
  caption = _caption(section.caption, "figcaption")
  return f'<figure><div class="images">{images}</div>{caption}</figure>'


def _players(section: Players) -> str:
  parts = [_caption(section.caption, "p")]
  for clip in section.clips:
    recordings = "\n".join(_recording(each, clip) for each in clip.recordings)
    parts.append(
      f'<div class="clip"><h3>{html.escape(clip.name)}</h3>'
      f"{_caption(clip.detail, 'p')}"
      f'<div class="recordings">{recordings}</div></div>'
    )
  return "\n".join(parts)


def _recording(recording: Recording, clip: Clip) -> str:
  """Formats a title, the player below it, and the picture below that."""
  image = ""
  if recording.picture is not None:
    words = f"spectrogram: {recording.title}, {clip.name}"
    image = _image(recording.picture, words)
  return (
    f"<figure><figcaption>{html.escape(recording.title)}</figcaption>"
    '<audio controls preload="metadata"'
    f' src="{_flac(recording.samples, clip.rate)}"></audio>{image}</figure>'
  )


def _caption(text: str, tag: str) -> str:
  return f'<{tag} class="note">{html.escape(text)}</{tag}>' if text else ""


def _image(image: Image, words: str) -> str:
  if not isinstance(image, bytes):
    image = pathlib.Path(image).read_bytes()
  uri = "data:image/png;base64," + base64.b64encode(image).decode()
  return f'<img alt="{html.escape(words)}" src="{uri}">'


def _flac(x: np.ndarray, rate: int) -> str:
  import soundfile

  x = np.clip(np.nan_to_num(np.asarray(x, np.float32)), -1.0, 1.0)
  file = io.BytesIO()
  soundfile.write(file, x, rate, format="FLAC", subtype="PCM_16")
  return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode()
