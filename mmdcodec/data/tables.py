"""Reads tables row by row, and notes the rows that cannot be read.

A table is delimited text (CSV, TSV), a JSON list of objects, or JSON lines.
Delimited text is read strictly: an unquoted comma or an open quote would cut a
text or swallow the following rows without a word. Only between tabs, where many
tables quote nothing, may a quote be part of a text. A row that cannot be read
is passed over, and reading continues on the line after its first one, so a
mistake costs one row.
"""

import ast
import collections
import csv
import io
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmdcodec import formatting
from mmdcodec.errors import UserError
from mmdcodec.formatting import is_utf8
from mmdcodec.store import inputs

# Lines of the longest row. The text of a song may have hundreds. Without a
# bound, each of many stray quotes would be followed to the end of the table.
_MOST_LINES = 1000

_JSON, _JSON_LINES = (".json",), (".jsonl", ".ndjson")

# The csv module's messages, in words of the mistake.
_MISTAKES = {
  "unexpected end of data": "a quote opens and never closes",
  "expected after": "text follows a closing quote; double the quotes inside a"
  " quoted cell",
}


class Note(NamedTuple):
  """A place, such as "captions.csv, line 7", and what is wrong there."""

  where: str
  what: str


def read_rows(
  table: Path, notes: list[Note], *, once: Collection[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields the rows of a table: the place of each, and a map from columns.

  Args:
    table: .json (a list of objects), .jsonl, .ndjson, or delimited text.
    notes: receives a note for each row that cannot be read.
    once: names in lower case that two columns may not share. Of two columns
      with another name, the first is read.

  Raises:
    UserError: the table or its header cannot be read.
  """
  if is_delimited(table):
    yield from _delimited_rows(table, notes, once)
    return
  is_json = table.suffix.lower() in _JSON
  rows = _json_rows(table) if is_json else _json_lines(table, notes)
  for where, row in rows:
    if isinstance(row, dict):
      yield where, row
    else:
      notes.append(Note(where, f"expected an object, not {row!r:.60}"))


def is_delimited(table: Path) -> bool:
  """Returns whether a table is delimited text, not JSON, by its name."""
  return table.suffix.lower() not in _JSON + _JSON_LINES


def read_cells(
  table: Path, notes: list[Note], *, header: int = 1
) -> Iterator[tuple[str, list[str]]]:
  """Yields the cells of each row of delimited text that is not empty.

  Args:
    table: text delimited by commas, tabs or semicolons.
    notes: receives a note for each row that cannot be read.
    header: rows at the beginning that name the columns. No other row may have
      more cells than these; empty cells at the end of a row do not count.

  Yields:
    The place of the row, and its cells.

  Raises:
    UserError: the table cannot be opened, or a row of its header is damaged.
  """
  with _open(table) as text:
    first = text.readline()
    if "\0" in first:
      raise UserError(
        f"{table}: is not a text in UTF-8, such as a CSV; save it as one."
      )
    delimiter = _delimiter(first)
    text.seek(0)
    # Biographies and lyrics can exceed the default limit of 128 KB.
    csv.field_size_limit(1 << 30)
    lines = _Lines(text)
    reader = csv.reader(
      lines, delimiter=delimiter, strict=True, skipinitialspace=True
    )
    width, rows = 0, 0
    while True:
      where, problem = f"{table.name}, line {lines.begin_row()}", ""
      cells: list[str] = []
      try:
        cells = next(reader)
      except StopIteration:
        return
      except csv.Error as error:
        said = str(error)
        problem = next((v for k, v in _MISTAKES.items() if k in said), said)
      if delimiter == "\t" and rows >= header:
        if plain := lines.unquoted(width, bool(problem)):
          cells, problem = plain, ""
      if not problem and not lines.are_utf8():
        problem = "is not in UTF-8; save the table in UTF-8"
      while len(cells) > width and not cells[-1].strip():
        cells.pop()
      if rows < header:
        width = max(width, len(cells))
      elif len(cells) > width and not problem:
        problem = (
          f"has {len(cells)} cells for"
          f" {formatting.count(width, 'column', 'columns')}; quote a cell that"
          f" contains {delimiter!r}"
        )
      if problem:
        if rows < header:
          raise UserError(f"{table.parent / where}: {problem}.")
        notes.append(Note(where, problem))
        lines.retry_after_first()
      elif cells:
        rows += 1
        yield where, cells


def parse_list(text: str) -> list[str | int | float] | None:
  """Parses a list as Python prints it: `['slow', 'sad']`.

  Returns:
    Its items, or None unless the text is a list of texts and numbers.
  """
  try:
    found = ast.literal_eval(text)
  except (ValueError, SyntaxError, RecursionError, MemoryError):
    return None
  if not isinstance(found, list):
    return None
  plain = all(isinstance(item, (str, int, float)) for item in found)
  return found if plain else None


def _delimited_rows(
  table: Path, notes: list[Note], once: Collection[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
  rows = read_cells(table, notes)
  header, names = next(rows, ("", []))
  columns: dict[str, int] = {}
  for i, name in enumerate(map(str.strip, names)):
    if name in columns:
      what = f"has two columns named {name!r}"
      if name.lower() in once:
        raise UserError(f"{table}: {what}; rename one of them.")
      notes.append(Note(header, f"{what}, of which the first is read"))
    elif name:  # Programs that write an index give its column no name.
      columns[name] = i
  for where, cells in rows:
    yield where, {k: cells[i] for k, i in columns.items() if i < len(cells)}


def _json_rows(table: Path) -> Iterator[tuple[str, Any]]:
  found = inputs.read_json(table, most=inputs.MOST_ROWS)
  if not isinstance(found, list):
    raise UserError(
      f"{table}: holds {inputs.kind_of(found)}; expected a JSON list of"
      " objects, or a name that ends in .jsonl for one object per line."
    )
  for number, row in enumerate(found, 1):
    yield f"{table.name}, item {number}", row


def _json_lines(table: Path, notes: list[Note]) -> Iterator[tuple[str, Any]]:
  with _open(table) as text:
    for number, line in enumerate(text, 1):
      if not line.strip():
        continue
      where = f"{table.name}, line {number}"
      try:
        if not is_utf8(line):
          raise UserError(f"{where}: is not in UTF-8; save it in UTF-8.")
        row = inputs.parse_json(line, where)
      except UserError as error:
        notes.append(Note(where, reason_of(error, where)))
        continue
      yield where, row


def reason_of(error: Exception, name: str | os.PathLike) -> str:
  """Returns the message of an error without the name and the final period."""
  return str(error).removeprefix(f"{name}: ").rstrip(".")


class _Lines:
  """Lines of a text, some of which can be read once more."""

  def __init__(self, lines: Iterator[str]):
    self._lines = lines
    self._again: collections.deque[str] = collections.deque()
    self._row: list[str] = []
    self._before = 0

  def __iter__(self) -> "_Lines":
    return self

  def __next__(self) -> str:
    if len(self._row) == _MOST_LINES:
      raise csv.Error("unexpected end of data")
    line = self._again.popleft() if self._again else next(self._lines)
    self._row.append(line)
    return line

  def begin_row(self) -> int:
    """Begins a row; returns the number of its first line."""
    self._before += len(self._row)
    self._row = []
    return self._before + 1

  def retry_after_first(self) -> None:
    """Gives back all lines of this row except the first."""
    self._again.extendleft(reversed(self._row[1:]))
    del self._row[1:]

  def unquoted(self, width: int, damaged: bool) -> list[str] | None:
    """Reads a row without quoting, if its table is written so.

    That shows where a quote is a mistake or joins lines, and each of these
    lines is a row by itself. The lines after the first are given back.

    Args:
      width: cells of a row.
      damaged: whether the row cannot be read with quoting.

    Returns:
      The cells between the tabs of the first line, or None.
    """
    if not damaged and len(self._row) < 2:
      return None
    rows = [line.rstrip("\r\n").split("\t") for line in self._row]
    if any(len(row) != width for row in rows if row != [""]):
      return None
    self.retry_after_first()
    return rows[0]

  def are_utf8(self) -> bool:
    """Whether the lines of this row are valid UTF-8."""
    return all(map(is_utf8, self._row))


def _open(table: Path) -> io.TextIOWrapper:
  file = inputs.open_file(table, most=inputs.MOST_ROWS)
  encoding = inputs.encoding_of(file.read(4))
  file.seek(0)
  # UTF-16 has no invalid bytes but a half character at its end.
  errors = "replace" if encoding == "utf-16" else "surrogateescape"
  return io.TextIOWrapper(file, encoding, errors, newline="")


def _delimiter(first: str) -> str:
  """Detects the delimiter of a table in its first line."""
  return max(",\t;", key=first.count)
