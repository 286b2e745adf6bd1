"""Finds the audio files of a folder for `prepare`, with their labels."""

import os
from collections.abc import Callable
from pathlib import Path

from mmdcodec.audio import files, formats
from mmdcodec.data import captions, record_writer
from mmdcodec.data.report import Report
from mmdcodec.data.tables import Note
from mmdcodec.errors import UserError


def find(
  folder: Path,
  table: Path | None,
  labels_of: Callable[[Path, Path | None, list[Path]], Callable],
  report: Report,
) -> list[record_writer.Source]:
  """Finds audio files with their labels, and reports unusable files.

  Args:
    folder: folder of the audio, or one file.
    table: captions and tags; None: only sidecar files.
    labels_of: makes a function from path to `captions.Label`; see
      `captions.labels`.
    report: receives the notes on labels and the unusable files.

  Raises:
    UserError: no audio, or the table names none of it.
  """
  if not folder.exists():
    raise UserError(f"{folder}: no such folder.")
  root = folder.parent if folder.is_file() else folder
  paths = files.find(folder)
  labels = labels_of(folder, table, paths)
  found = {
    p: record_writer.Source(
      p, record_writer.valid_text(str(p.relative_to(root))), labels(p), _size(p)
    )
    for p in paths
  }
  # Labels of another builder may be any function, which takes no notes.
  report.notes = _relative(getattr(labels, "notes", captions.Notes()), root)
  report.skipped += [
    (record_writer.valid_text(str(p.relative_to(root))), reason)
    for p, reason in _unusable(folder)
  ]
  if not found:
    others = "".join(f" ({p}: {r})" for p, r in report.skipped[:1])
    raise UserError(
      f"{folder}: no audio files{others}; expected {' '.join(files.SUFFIXES)}."
    )
  # `named` excludes captions from sidecar files, which are not in the table.
  labelled = {p for p, s in found.items() if s.label != captions.Label()}
  if table and not getattr(labels, "named", labelled):
    unread = next((f" ({w}: {r})" for w, r in report.notes.unread), "")
    raise UserError(
      f"{table}: no row names any of the {len(found)} audio files in {folder},"
      f" such as {next(iter(found)).relative_to(root)}{unread}; paths may be"
      " relative to either."
    )
  return list(found.values())


def with_tags(
  sources: list[record_writer.Source], only: dict[str, str] | None
) -> list[record_writer.Source]:
  """Selects the files with the given tags.

  Raises:
    UserError: there are none.
  """
  kept = [
    s
    for s in sources
    if all(str(s.label.tags.get(k)) == str(v) for k, v in (only or {}).items())
  ]
  if not kept:
    raise UserError(
      f"none of the {len(sources)} audio files has the tags {only}; the first"
      f" has {sources[0].label.tags}."
    )
  return kept


def _relative(notes: captions.Notes, root: Path) -> captions.Notes:
  """Shortens the paths in notes to names in the data set."""

  def short(note: Note) -> Note:
    where = note.where.removeprefix(f"{root}{os.sep}")
    return Note(*map(record_writer.valid_text, (where, note.what)))

  kinds = {kind: list(map(short, found)) for kind, found in vars(notes).items()}
  return captions.Notes(**kinds)


def _unusable(folder: Path) -> list[tuple[Path, str]]:
  """Finds paths that look like audio but cannot be read, with the reason."""
  found: list[tuple[Path, str]] = []
  for root, folders, names in files.walk(folder):
    # A folder named x.wav is a mistake that the user should see.
    found += [
      (root / name, "is a folder, not an audio file")
      for name in folders
      if name.lower().endswith(formats.READABLE)
    ]
    found += [
      (root / name, f"{suffix[1:]} is not supported; convert it to flac")
      for name in names
      if (suffix := Path(name).suffix.lower()) in formats.UNSUPPORTED
    ]
  return sorted(found)


def _size(path: Path) -> int:
  try:
    return os.path.getsize(path)
  except OSError:
    return 0
