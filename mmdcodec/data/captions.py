"""Reads captions and tags of audio files from tables or sidecar files.

A caption file is a table with a row for each audio file. One column names the
file, one holds the caption, every other column becomes a tag. Labels that are
not in a table are read from `song.json` ({"caption": ..., "tags": {...}}) or
`song.txt` (the caption) beside `song.wav`, or `song.JSON` and `song.TXT`.

A row or a sidecar that cannot be read does not end a run: it is passed over and
noted, and `prepare` reports the notes.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmdcodec.audio import files
from mmdcodec.data.file_names import FileNames
from mmdcodec.data.tables import Note, read_rows, reason_of
from mmdcodec.errors import UserError
from mmdcodec.formatting import is_utf8
from mmdcodec.store import inputs
from mmdcodec.store import paths as paths_lib

# Names of these columns in published data sets; the first one found is used.
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path")
PATHS += ("audio", "audio_path", "audio_file", "audio_filepath", "location")
CAPTIONS = ("caption", "text", "description", "prompt", "sentence")

# What programs write into a cell that has no text.
_NOTHING = ("nan", "none", "null")


class Label(NamedTuple):
  """Caption and tags of an audio file."""

  caption: str = ""
  tags: dict = {}


@dataclass
class Notes:
  """What was left out while labels were read.

  Attributes:
    unread: rows and sidecar files that could not be read.
    unmatched: rows that name no audio file.
    further: captions of files that have another one already.
    ambiguous: audio files without a row because a name in the table means
      several files.
  """

  unread: list[Note] = field(default_factory=list)
  unmatched: list[Note] = field(default_factory=list)
  further: list[Note] = field(default_factory=list)
  ambiguous: list[Note] = field(default_factory=list)


class Labels:
  """The labels of audio files: a function from path to `Label`.

  Attributes:
    notes: what was left out, also by the calls so far.
    named: files that have a row in the table.
  """

  def __init__(
    self,
    rows: Mapping[Path, Label] | None = None,
    notes: Notes | None = None,
    *,
    sidecars: bool = True,
  ):
    """Takes the labels of a table.

    Args:
      rows: labels by path.
      notes: what was left out while the table was read.
      sidecars: whether sidecar files supply what the table lacks.
    """
    self.notes = notes or Notes()
    self.named = set(rows or ())
    self._rows, self._sidecars = rows or {}, sidecars

  def __call__(self, path: Path) -> Label:
    """Returns the label of an audio file."""
    row = self._rows.get(path, Label())
    beside = sidecar(path, self.notes) if self._sidecars else Label()
    return Label(row.caption or beside.caption, {**beside.tags, **row.tags})


def labels(
  folder: Path, table: Path | None, paths: list[Path] | None = None
) -> Labels:
  """Reads the labels of a folder of audio.

  Args:
    folder: folder of the audio.
    table: a CSV, TSV, JSON or JSON-lines file, or None. Its paths may be
      absolute, relative to the table or to `folder`, or bare file names of
      files in any subfolder; see `file_names`.
    paths: the audio files; None finds them in `folder`.

  Raises:
    UserError: the table cannot be read, or has no column of paths.
  """
  if table is None:
    return Labels()
  paths = files.find(folder) if paths is None else paths
  root = folder.parent if folder.is_file() else folder
  names, notes = FileNames(paths, (root, table.parent)), Notes()
  rows: dict[Path, _Row] = {}
  unsure: dict[Path, str] = {}
  columns: list[str] | None = None
  for where, row in read_rows(table, notes.unread, once=PATHS + CAPTIONS):
    key = _key(row, PATHS)
    if columns is None or key:
      columns = [] if key else list(map(str, row))
    name = row.pop(key) if key else None
    if not isinstance(name, str) or not name.strip():
      if any(row.values()):
        notes.unread.append(Note(where, "names no audio file"))
      continue
    name = name.strip()
    match = names.find(name)
    if match is None:
      notes.unmatched.append(Note(where, name))
      continue
    if len(match.paths) > 1:
      unsure |= dict.fromkeys(match.paths, where)
      continue
    (path,), label = match.paths, read_label(row, where, notes)
    if label is not None:
      found = _Row(match.distance, where, name, label)
      rows[path] = _closest(rows.get(path, found), found, notes)
  if columns:
    raise UserError(
      f"{table}: no column names the audio files; expected one of"
      f" {', '.join(PATHS)}, found {', '.join(columns)}."
    )
  notes.ambiguous += [
    Note(str(path), f"{where} may mean it or others")
    for path, where in unsure.items()
    if path not in rows
  ]
  return Labels({path: found.label for path, found in rows.items()}, notes)


class _Row(NamedTuple):
  """A row that names one file: how far from its path, and where it is."""

  distance: int
  where: str
  name: str
  label: Label


def _closest(first: _Row, second: _Row, notes: Notes) -> _Row:
  """Returns the row that names a file best, the first of equals."""
  kept, left = first, second
  if second.distance < first.distance:
    kept, left = second, first
  if left.distance > kept.distance:
    notes.unmatched.append(Note(left.where, left.name))
  elif left.label != kept.label:
    what = f"{left.name} is also in {kept.where}"
    notes.further.append(Note(left.where, what))
  return kept


def labels_by_key(
  rows: Iterable[tuple[str, Hashable, Label]],
  keys: Callable[[Path], Iterable[Hashable]],
  paths: list[Path],
  notes: Notes,
) -> Labels:
  """Makes the labels of files that are named by an identifier.

  Args:
    rows: place, identifier and label of each row of a table.
    keys: returns the identifiers that a file may have, best first.
    paths: the audio files.
    notes: receives what is left out.
  """
  known: dict[Hashable, tuple[str, Label]] = {}
  for where, key, label in rows:
    if key not in known:
      known[key] = (where, label)
    elif known[key][1] != label:
      notes.further.append(Note(where, f"{key} is also in {known[key][0]}"))
  chosen = {
    path: next((key for key in keys(path) if key in known), None)
    for path in paths
  }
  used = set(chosen.values())
  notes.unmatched += [
    Note(where, str(key))
    for key, (where, _) in known.items()
    if key not in used
  ]
  found = {path: known[key][1] for path, key in chosen.items() if key in known}
  return Labels(found, notes, sidecars=False)


def sidecar(path: Path, notes: Notes | None = None) -> Label:
  """Reads the label in the `.json` or `.txt` file beside an audio file.

  Args:
    path: the audio file.
    notes: receives a note for each sidecar that cannot be read; the next one is
      read in its place because the audio is still usable.
  """
  notes = notes or Notes()
  for beside in sidecars(path):
    if not paths_lib.lexists(beside):
      continue
    try:
      if beside.suffix.lower() != ".json":
        return Label(inputs.read_text(beside).strip())
      row = inputs.read_json(beside)
      if isinstance(row, dict):
        label = read_label(row, str(beside), notes)
        if label is not None:
          return label
        continue
      raise UserError(f"expected an object with a caption, not {row!r:.60}.")
    except UserError as error:
      notes.unread.append(Note(str(beside), reason_of(error, beside)))
  return Label()


def sidecars(path: Path) -> list[Path]:
  """Returns song.json, song.wav.json, song.txt, song.wav.txt for song.wav.

  Where only a file with its suffix in capitals exists, that one is returned.
  """
  found = []
  for suffix in (".json", ".txt"):
    for beside in (
      path.with_suffix(suffix),
      path.with_name(path.name + suffix),
    ):
      capitals = beside.with_suffix(suffix.upper())
      # Both names may mean one file.
      is_small = paths_lib.lexists(beside) or not paths_lib.lexists(capitals)
      found.append(beside if is_small else capitals)
  return found


def read_label(row: dict, where: str, notes: Notes) -> Label | None:
  """Makes a label from a mapping: caption, tags, and all other keys as tags.

  Keys that begin with "_" are left out; they are internal to other programs.

  Args:
    row: the mapping.
    where: its place.
    notes: receives a note if its caption is one of several, or no label can be
      made.

  Returns:
    The label, with the first of several captions; None if the caption is
    something else than a text, or a text is not valid.
  """
  if not is_utf8(json.dumps(row, ensure_ascii=False, default=str)):
    notes.unread.append(
      Note(where, "holds half a character (\\ud800 to \\udfff)")
    )
    return None
  key = _key(row, CAPTIONS)
  captions = _texts(row[key]) if key else []
  if captions is None:
    what = f"the {key} is {row[key]!r:.60}; expected a text"
    notes.unread.append(Note(where, what))
    return None
  if len(captions) > 1:
    what = f"has {len(captions)} captions, of which the first is used"
    notes.further.append(Note(where, what))
  tags = row.get("tags")
  tags = tags if isinstance(tags, dict) else {"tags": tags}
  rest = {k: v for k, v in row.items() if k not in (key, "tags", None)}
  rest = {k: v for k, v in rest.items() if not str(k).startswith("_")}
  tags = {str(k): v for k, v in {**rest, **tags}.items()}
  # NaN, which equals nothing, is how tables in JSON write an empty cell.
  empty = ("", [], {})
  tags = {
    k: v for k, v in tags.items() if v is not None and v == v and v not in empty
  }
  return Label(captions[0] if captions else "", tags)


def _texts(value: Any) -> list[str] | None:
  """Returns the captions in a cell; None if it holds something else."""
  values = value if isinstance(value, list) else [value]
  # NaN equals nothing.
  values = [each for each in values if each is not None and each == each]
  if not all(isinstance(each, str) for each in values):
    return None
  values = [each.strip() for each in values]
  return [each for each in values if each and each.lower() not in _NOTHING]


def _key(row: dict, names: Iterable[str]) -> Any:
  """Returns the key of a row that is the first of these names, in any case."""
  known = {str(k).strip().lower(): k for k in row if k is not None}
  return next((known[name] for name in names if name in known), None)
