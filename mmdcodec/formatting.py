"""Formats numbers and tables for people; says which texts can be written."""

import numbers
from collections.abc import Sequence
from typing import Any

# Characters of a message or of a table's cell; longer ones fill a terminal.
LONGEST = 1500


def shortened(text: str) -> str:
  """Leaves out the middle of a very long text.

  Values of damaged files are shown to the user, and may be of any length.
  """
  if len(text) <= LONGEST:
    return text
  return f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def duration(seconds: float) -> str:
  """Formats a duration: `1 h 02 min`, `3 min 05 s`, `12 s`, `4.25 s`."""
  if seconds < 10:
    return f"{seconds:.2f} s"
  seconds = int(round(seconds))
  hours, minutes = seconds // 3600, seconds // 60 % 60
  if hours:
    return f"{hours} h {minutes:02d} min"
  if minutes:
    return f"{minutes} min {seconds % 60:02d} s"
  return f"{seconds} s"


def count(number: int, one: str, many: str) -> str:
  """Formats a number with singular or plural: `1 chunk is`, `2 chunks are`."""
  return f"{number} {one if number == 1 else many}"


def channels(number: int) -> str:
  """Formats a number of channels: `1 channel`, `2 channels`."""
  return count(number, "channel", "channels")


def is_utf8(text: str) -> bool:
  """Whether UTF-8 can write a text; file names may hold any bytes."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def share(part: float) -> str:
  """Formats a share: `54%`, `0.32%`, `under 0.01%`."""
  if 0 < part < 1e-4:
    return "under 0.01%"
  return f"{part:.0%}" if part >= 0.1 else f"{100 * part:.2g}%"


def file_size(number: int) -> str:
  """Formats a size in decimal units: `812 B`, `3.4 KB`, `12.0 MB`."""
  size, unit = float(number), "B"
  for unit in ("B", "KB", "MB", "GB"):
    if size < 1000 or unit == "GB":
      break
    size /= 1000
  return f"{number} B" if unit == "B" else f"{size:.1f} {unit}"


def cell(value: Any) -> str:
  """Formats a table cell: numbers with 3 digits or more, NaN as a dash.

  The middle of a very long text is left out.
  """
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    return shortened(str(value))
  if isinstance(value, numbers.Integral):
    return f"{value:,}"
  value = float(value)
  if value != value:
    return "–"
  size = abs(value)
  if size == 0 or 1e-3 <= size < 1e6:
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2
    if 0 < size < 1:
      decimals = 3 if size >= 0.01 else 4
    return f"{value:,.{decimals}f}"
  return f"{value:.2e}"


def table(columns: Sequence[str] | None, rows: Sequence[Sequence[Any]]) -> str:
  """Aligns columns for a terminal: words left, numbers right.

  Args:
    columns: column names, or None for a table without a header.
    rows: cells.
  """
  cells = [[cell(value) for value in row] for row in rows]
  numeric = [
    all(not isinstance(row[i], str) for row in rows)
    for i in range(len(cells[0] if cells else columns or ()))
  ]
  if columns is not None:
    cells.insert(0, list(columns))
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = []
  for row in cells:
    line = "  ".join(
      text.rjust(width) if right else text.ljust(width)
      for text, width, right in zip(row, widths, numeric, strict=True)
    )
    lines.append(line.rstrip())
  if columns is not None:
    lines.insert(1, "  ".join("-" * width for width in widths))
  return "\n".join(lines)
