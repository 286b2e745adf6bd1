"""Captions and tags of audio files: CSV, JSON lines, or files beside them.

A caption file is a table, one row an audio file. One column names the file,
one holds the caption, every other column becomes a tag. Without a table, or
for what it leaves open, `song.json` ({"caption": ..., "tags": {...}}) or
`song.txt` (the caption) beside `song.wav` are read.
"""

import collections
import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mmdcodec.audio import files
from mmdcodec.errors import UserError

# The names that data sets give to these columns, the first found wins.
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path")
PATHS += ("audio", "audio_path", "audio_file", "audio_filepath", "location")
CAPTIONS = ("caption", "text", "description", "prompt", "sentence")


class Label(NamedTuple):
  """What is known of an audio file in words."""

  caption: str = ""
  tags: dict = {}


Labels = Callable[[Path], Label]


def labels(
  folder: Path, table: Path | None, paths: list[Path] | None = None
) -> Labels:
  """The labels of a folder of audio.

  Args:
    folder: where the audio is.
    table: a CSV, TSV, JSON or JSON-lines file, or None. Its paths may be
      relative to itself, to `folder`, absolute, or bare file names.
    paths: the audio files; None looks for them in `folder`.

  Returns:
    A function from the path of an audio file to its `Label`. What the table
    leaves open is taken from sidecar files. A bare name in the table is that
    of a file in some subfolder, if there is just one of that name. Of the files
    that the function was asked for, its attribute `ambiguous` is the set of
    those that have no row because of this, `named` of those that have one.

  Raises:
    UserError: the table cannot be read, or has no column of paths.
  """
  rows = _index(folder, table) if table else {}
  if table and paths is None:
    paths = files.find(folder)
  owners = collections.Counter(s for p in paths or () for s in _short(p.name))

  def label(path: Path) -> Label:
    row = rows.get(os.path.abspath(path))
    for short in _short(path.name) if row is None else ():
      if short in rows and owners[short] > 1:
        label.ambiguous.add(path)
      elif short in rows:
        row = rows[short]
        label.ambiguous.discard(path)
        break
    if row is not None:
      label.named.add(path)
    row = row or Label()
    beside = sidecar(path)
    return Label(row.caption or beside.caption, {**beside.tags, **row.tags})

  label.ambiguous, label.named = set(), set()
  return label


def _short(name: str) -> list[str]:
  """What a table may call a file: its name, its name without suffix."""
  name = name.lower()
  return list(dict.fromkeys((name, os.path.splitext(name)[0])))


def sidecar(path: Path) -> Label:
  """The label in the `.json` or `.txt` file beside an audio file.

  A sidecar that cannot be read counts as none: the audio is still good.
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
  """Where `sidecar` looks: song.json beside song.wav, or song.wav.json."""
  return [
    beside
    for suffix in (".json", ".txt")
    for beside in (path.with_suffix(suffix), Path(str(path) + suffix))
  ]


def from_row(row: dict) -> Label:
  """A label from a mapping: caption, tags, and all else as tags as well.

  Keys that begin with "_" are left out: programs note things there.

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
  """The rows of a table, as mappings from column to value.

  Args:
    table: .json (a list of objects), .jsonl, .ndjson, else delimited text.

  Raises:
    UserError: it cannot be read; names the line.
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


def delimiter(text) -> str:
  """The delimiter of a table, by its first line; `text` is rewound."""
  first = text.readline()
  text.seek(0)
  # Biographies and lyrics are longer than the 128 KB the module allows.
  csv.field_size_limit(1 << 30)
  return max(",\t;", key=first.count)


def _index(folder: Path, table: Path) -> dict[str, Label]:
  """Labels by absolute path; of bare names also by name, if it is unique."""
  index, ambiguous = {}, set()
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
    # A bare name, often an id without suffix, of a file in some subfolder.
    for short in _short(path):
      if short in index:
        ambiguous.add(short)
      index[short] = label
  for short in ambiguous:
    del index[short]
  return index
