"""Reads captions and tags of audio files from tables or sidecar files.

A caption file is a table with a row for each audio file. One column names the
file, one holds the caption, every other column becomes a tag. Labels that are
not in a table are read from `song.json` ({"caption": ..., "tags": {...}}) or
`song.txt` (the caption) beside `song.wav`.
"""

import collections
import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from mmdcodec.audio import files
from mmdcodec.errors import UserError

# Names of these columns in published data sets; the first one found is used.
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path")
PATHS += ("audio", "audio_path", "audio_file", "audio_filepath", "location")
CAPTIONS = ("caption", "text", "description", "prompt", "sentence")


class Label(NamedTuple):
  """Caption and tags of an audio file."""

  caption: str = ""
  tags: dict = {}


Labels = Callable[[Path], Label]


class TableLabels:
  """The labels of a folder of audio: a function from path to `Label`.

  Sidecar files supply what the table lacks. A bare name in the table refers to
  a file in any subfolder, provided that only one file has that name.

  Attributes:
    ambiguous: files looked up so far that have no row because several files
      share the name in the table.
    named: files looked up so far that have a row.
  """

  def __init__(
    self, folder: Path, table: Path | None, paths: list[Path] | None
  ):
    """Reads the table; see `labels`."""
    self.ambiguous: set[Path] = set()
    self.named: set[Path] = set()
    self._rows = _index(folder, table) if table else {}
    if table and paths is None:
      paths = files.find(folder)
    self._owners = collections.Counter(
      short for path in paths or () for short in _short(path.name)
    )

  def __call__(self, path: Path) -> Label:
    """Returns the label of an audio file."""
    row = self._rows.get(os.path.abspath(path))
    for short in _short(path.name) if row is None else ():
      if short in self._rows and self._owners[short] > 1:
        self.ambiguous.add(path)
      elif short in self._rows:
        row = self._rows[short]
        self.ambiguous.discard(path)
        break
    if row is not None:
      self.named.add(path)
    row = row or Label()
    beside = sidecar(path)
    return Label(row.caption or beside.caption, {**beside.tags, **row.tags})


def labels(
  folder: Path, table: Path | None, paths: list[Path] | None = None
) -> TableLabels:
  """Reads the labels of a folder of audio.

  Args:
    folder: folder of the audio.
    table: a CSV, TSV, JSON or JSON-lines file, or None. Its paths may be
      absolute, relative to the table or to `folder`, or bare file names.
    paths: the audio files; None finds them in `folder`.

  Raises:
    UserError: the table cannot be read, or has no column of paths.
  """
  return TableLabels(folder, table, paths)


def _short(name: str) -> list[str]:
  """Returns the names of a file in tables: with and without suffix."""
  name = name.lower()
  return list(dict.fromkeys((name, os.path.splitext(name)[0])))


def sidecar(path: Path) -> Label:
  """Reads the label in the `.json` or `.txt` file beside an audio file.

  A sidecar that cannot be read is ignored because the audio is still usable.
  """
  for beside in sidecars(path):
    try:
      text = beside.read_text(encoding="utf-8-sig")
      return (
        from_row(json.loads(text))
        if beside.suffix == ".json"
        else Label(text.strip())
      )
    except (OSError, ValueError, UserError):
      continue
  return Label()


def sidecars(path: Path) -> list[Path]:
  """Returns song.json, song.wav.json, song.txt, song.wav.txt for song.wav."""
  return [
    beside
    for suffix in (".json", ".txt")
    for beside in (path.with_suffix(suffix), Path(str(path) + suffix))
  ]


def from_row(row: dict) -> Label:
  """Makes a label from a mapping: caption, tags, and all other keys as tags.

  Keys that begin with "_" are left out; they are internal to other programs.

  Raises:
    UserError: `row` is not a mapping.
  """
  if not isinstance(row, dict):
    raise UserError(f"expected an object with a caption, not {row!r:.60}.")
  known = {str(k).strip().lower(): k for k in row if k is not None}
  key = next((known[c] for c in CAPTIONS if c in known), None)
  caption = row[key] if key else ""
  tags = row.get("tags")
  tags = tags if isinstance(tags, dict) else {"tags": tags}
  rest = {k: v for k, v in row.items() if k not in (key, "tags", None)}
  rest = {k: v for k, v in rest.items() if not str(k).startswith("_")}
  tags = {str(k): v for k, v in {**rest, **tags}.items()}
  tags = {k: v for k, v in tags.items() if v not in (None, "", [], {})}
  return Label(str(caption or "").strip(), tags)


def read_rows(table: Path) -> Iterator[dict]:
  """Yields the rows of a table, as mappings from column to value.

  Args:
    table: .json (a list of objects), .jsonl, .ndjson, or delimited text.

  Raises:
    UserError: it cannot be read; the message names the line.
  """
  try:
    text = table.open(encoding="utf-8-sig", newline="")
  except OSError as error:
    raise UserError(f"{table}: cannot be read ({error.strerror}).") from error
  with text:
    try:
      if table.suffix.lower() == ".json":
        yield from json.load(text)
      elif table.suffix.lower() in (".jsonl", ".ndjson"):
        for number, line in enumerate(text, 1):
          if line.strip():
            try:
              yield json.loads(line)
            except ValueError as error:
              raise UserError(
                f"{table}, line {number}: expected one JSON object ({error})."
              ) from error
      else:
        yield from csv.DictReader(text, delimiter=delimiter(text))
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
      raise UserError(
        f"{table}: expected CSV, or JSON (lines) named .json (.jsonl), in"
        f" UTF-8 ({error})."
      ) from error


def delimiter(text: TextIO) -> str:
  """Detects the delimiter of a table in its first line; rewinds `text`."""
  first = text.readline()
  text.seek(0)
  # Biographies and lyrics can exceed the default limit of 128 KB.
  csv.field_size_limit(1 << 30)
  return max(",\t;", key=first.count)


def _index(folder: Path, table: Path) -> dict[str, Label]:
  """Indexes labels by absolute path, and by name if a bare name is unique."""
  index: dict[str, Label] = {}
  ambiguous = set()
  for row in read_rows(table):
    if not isinstance(row, dict):
      raise UserError(f"{table}: expected objects, not {row!r:.60}.")
    names = {str(k).strip().lower(): k for k in row if k is not None}
    key = next((names[c] for c in PATHS if c in names), None)
    if key is None:
      raise UserError(
        f"{table}: no column names the audio files; expected one of"
        f" {', '.join(PATHS)}, found {', '.join(map(str, row))}."
      )
    path = str(row.pop(key) or "").strip()
    if not path:
      continue
    label = from_row(row)
    for root in (folder, table.parent):
      index[os.path.abspath(root / path)] = label
    if os.path.dirname(path) or (folder / path).exists():
      continue
    # A bare name, often an id without suffix, of a file in any subfolder.
    for short in _short(path):
      if short in index:
        ambiguous.add(short)
      index[short] = label
  for short in ambiguous:
    del index[short]
  return index
