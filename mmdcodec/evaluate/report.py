"""A report as one HTML page that needs nothing beside itself.

A page is a title and a list of sections, each of one of four kinds: `Text`,
`Table`, `Figure` and `Players`. Styles are inline, images and audio are data
URIs, so the file can be mailed or moved. Audio is FLAC: what is heard is what
the model made, sample for sample at 16 bits.
"""

import base64
import dataclasses
import html
import io
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata

import numpy as np

from mmdcodec.store import atomic


@dataclasses.dataclass(frozen=True)
class Text:
  """Paragraphs, then commands or output in fixed width.

  Attributes:
    title: heading of the section; "" continues the section before.
    paragraphs: plain text, one string each.
    code: shown as it is; "" for none.
  """

  title: str
  paragraphs: Sequence[str] = ()
  code: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of numbers and words.

  Attributes:
    title: heading of the section; "" continues the section before.
    columns: names.
    rows: cells; numbers are printed to 3 significant digits at least.
    note: what the reader must know to read it.
  """

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence]
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
  """Pictures, side by side where there is room.

  Attributes:
    title: heading of the section; "" continues the section before.
    images: PNG bytes, or paths of PNG files.
    caption: what is seen.
  """

  title: str
  images: Sequence[bytes | str | os.PathLike]
  caption: str = ""


@dataclasses.dataclass(frozen=True)
class Clip:
  """One row of players.

  Attributes:
    name: of the row, such as a file or a prompt.
    audio: name of a version -> samples [samples] or [samples, channels].
    rate: of all of them, in Hz.
    detail: a line under the name.
    image: PNG bytes or path shown below the players, or None.
  """

  name: str
  audio: Mapping[str, np.ndarray]
  rate: int
  detail: str = ""
  image: bytes | str | os.PathLike | None = None


@dataclasses.dataclass(frozen=True)
class Players:
  """Audio to listen to, one `Clip` a row.

  Attributes:
    title: heading of the section; "" continues the section before.
    clips: rows.
    caption: what is heard.
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
    path: of the page; its folder must exist.
    sections: from top to bottom.
    title: of the page.
    lead: one or two sentences below the title: the result.

  Returns:
    The path.

  Raises:
    TypeError: a section is of no known kind.
  """
  path = pathlib.Path(path)
  body = "\n".join(_section(section) for section in sections)
  page = _PAGE.format(
    title=html.escape(title),
    lead=f'<p class="lead">{html.escape(lead)}</p>' if lead else "",
    style=_STYLE,
    body=body,
  )
  atomic.write_text(path, page)
  return path


def environment() -> Table:
  """The software and the machine that this process runs with."""
  import jax

  rows = [("Python", platform.python_version())]
  for name in ("mmdcodec", "jax", "jaxlib", "flax", "optax", "numpy"):
    try:
      rows.append((name, metadata.version(name)))
    except metadata.PackageNotFoundError:
      continue
  kinds = sorted({device.device_kind for device in jax.devices()})
  rows += [
    ("system", f"{platform.system()} {platform.machine()}"),
    ("CPU cores", len(os.sched_getaffinity(0)) if _affinity() else "unknown"),
    ("JAX devices", f"{jax.device_count()} x {', '.join(kinds)}"),
  ]
  return Table("Environment", ("what", "version"), rows)


def format_number(value) -> str:
  """A number short enough for a table: 3 significant digits or more."""
  if isinstance(value, bool) or not isinstance(
    value, (int, float, np.integer, np.floating)
  ):
    return str(value)
  if isinstance(value, (int, np.integer)):
    return f"{value:,}"
  if value != value:
    return "–"
  size = abs(value)
  if size == 0 or 1e-3 <= size < 1e6:
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2
    if 0 < size < 1:
      decimals = 3 if size >= 0.01 else 4
    return f"{value:,.{decimals}f}"
  return f"{value:.2e}"


def _affinity() -> bool:
  return hasattr(os, "sched_getaffinity")


def _section(section: Section) -> str:
  kinds = {Text: _text, Table: _table, Figure: _figure, Players: _players}
  if type(section) not in kinds:
    raise TypeError(f"no kind of section: {type(section).__name__}")
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
      cells.append(f"<td{kind}>{html.escape(format_number(cell))}</td>")
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
    players = "\n".join(
      f'<div class="player"><span>{html.escape(name)}</span>'
      f'<audio controls preload="metadata" src="{_flac(x, clip.rate)}">'
      "</audio></div>"
      for name, x in clip.audio.items()
    )
    image = ""
    if clip.image is not None:
      image = _image(clip.image, f"spectrograms of {clip.name}")
    parts.append(
      f'<div class="clip"><h3>{html.escape(clip.name)}</h3>'
      f"{_caption(clip.detail, 'p')}"
      f'<div class="players">{players}</div>{image}</div>'
    )
  return "\n".join(parts)


def _caption(text: str, tag: str) -> str:
  return f'<{tag} class="note">{html.escape(text)}</{tag}>' if text else ""


def _image(image, words: str) -> str:
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


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>{lead}</header>
{body}
</main>
</body>
</html>
"""

# Pictures keep a light ground in dark mode: their axes are drawn for one.
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6575;
  --ground: #f6f7f9; --card: #ffffff; --line: #dfe3ea; --accent: #2b5fd9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef;
  --soft: #a0a9b8; --ground: #12151b; --card: #1b2029; --line: #303846;
  --accent: #86a9ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem;
  letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: 0 0 .75rem; max-width: 70ch; }
.lead { font-size: 1.1rem; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 1.25rem; margin: 1rem 0; }
.note { color: var(--soft); font-size: .9rem; margin: .6rem 0 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; min-width: 60%; font-size: .95rem; }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
pre { background: var(--ground); border: 1px solid var(--line); margin: 0;
  border-radius: 8px; padding: .75rem; overflow-x: auto; font-size: .85rem; }
figure { margin: 0; }
.images { display: flex; flex-wrap: wrap; gap: 1rem; }
.images img { flex: 1 1 320px; min-width: 0; }
img { max-width: 100%; height: auto; display: block; background: #fff;
  border-radius: 8px; }
.clip { border-top: 1px solid var(--line); padding: 1rem 0; }
.note + .clip { margin-top: .75rem; }
.clip .note { margin: .1rem 0 0; }
.clip img { margin-top: .75rem; width: 100%; }
.clip:last-child { padding-bottom: 0; }
.players { display: grid; gap: .75rem; margin-top: .6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 240px), 1fr)); }
.player span { display: block; font-size: .85rem; color: var(--soft);
  margin-bottom: .2rem; }
audio { width: 100%; height: 40px; display: block; }
@media (prefers-color-scheme: dark) { img { filter: brightness(.88); } }
@media (max-width: 600px) { main { padding: 1.25rem .6rem 3rem; }
  section { padding: 1rem .8rem; border-radius: 10px; }
  h1 { font-size: 1.5rem; } }
"""
