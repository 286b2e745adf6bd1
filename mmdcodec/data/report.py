"""The report of `prepare`: what was made, and everything that was left out."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmdcodec import formatting
from mmdcodec.data.captions import Notes
from mmdcodec.data.tables import Note
from mmdcodec.errors import UserError
from mmdcodec.store import inputs

SKIPPED, NOTES = "skipped.jsonl", "notes.jsonl"

# Lines of each kind that are printed; the files above have all.
_MOST_SKIPPED, _MOST_NOTES = 20, 5

# Characters of a name or reason that are printed.
_WIDTH = 160

_MEANINGS = {
  "unread": "rows and sidecar files that could not be read",
  "unmatched": "rows that name no audio file of the folder",
  "further": "rows with captions of files that have another one already",
  "ambiguous": "files that share their name in the table of captions with"
  " others; give their paths there",
  "silent": "records in which nothing is heard; they are in the data set",
  "levels": "files that are clipped, or whose channels cancel each other",
  "constant": "records that encode to one code from beginning to end; they are"
  " in the data set",
}


@dataclass
class Report:
  """The result of preparing a folder of audio.

  Attributes:
    records: number of records written.
    files: number of files they come from.
    seconds: length of the audio written.
    captioned: number of those files with a caption.
    skipped: (path, reason) of each file that was left out.
    notes: captions and tags that were left out.
    silent: a note for each record in which nothing is heard.
    levels: notes of files whose samples are clipped or whose channels cancel.
    rate: sample rate of the records in Hz.
    channels: channels of the records.
    path: path of the data set.
  """

  records: int = 0
  files: int = 0
  seconds: float = 0.0
  captioned: int = 0
  skipped: list[tuple[str, str]] = field(default_factory=list)
  notes: Notes = field(default_factory=Notes)
  silent: list[Note] = field(default_factory=list)
  levels: list[Note] = field(default_factory=list)
  rate: int = 0
  channels: int = 0
  path: str = ""

  @property
  def ambiguous(self) -> int:
    """Number of files that share their name in the table with others."""
    return len(self.notes.ambiguous)

  def __str__(self) -> str:
    """Formats the table to print: counts, then what was left out."""
    return "\n".join(
      [
        f"dataset   {self.path}",
        f"records   {self.records}",
        f"audio     {formatting.duration(self.seconds)}, {self.rate} Hz,"
        f" {formatting.channels(self.channels)}",
        f"files     {self.files}, {self.captioned} with a caption,"
        f" {self.files - self.captioned} without",
        f"skipped   {len(self.skipped)}",
        *_listed(self.skipped, _MOST_SKIPPED, SKIPPED),
        *note_lines([self]),
      ]
    )

  def summary(self) -> dict[str, Any]:
    """Returns the counts, for the summary of the data set."""
    found = asdict(self)
    for name in ("path", "notes"):
      del found[name]
    counts = {kind: len(notes) for kind, notes in self.kinds().items()}
    return found | {"skipped": len(self.skipped)} | counts

  def write(self, folder: Path) -> None:
    """Writes the lists of what was left out to a data set."""
    _write_lines(
      folder / SKIPPED,
      ({"path": path, "reason": reason} for path, reason in self.skipped),
    )
    write_notes(folder / NOTES, self.kinds())

  def kinds(self) -> dict[str, list[Note]]:
    """Returns all notes by kind."""
    return vars(self.notes) | {"silent": self.silent, "levels": self.levels}


def note_lines(reports: Collection[Report]) -> list[str]:
  """Formats the notes of reports by kind: a count, then the first ones."""
  merged: dict[str, list[Note]] = {}
  for each in reports:
    for kind, notes in each.kinds().items():
      merged.setdefault(kind, []).extend(notes)
  # Reports of parts of one folder have the notes of one table.
  return kind_lines({k: list(dict.fromkeys(v)) for k, v in merged.items()})


def folder_lines(folder: Path) -> list[str]:
  """Formats the notes in a data set."""
  return kind_lines(read_notes(folder / NOTES))


def kind_lines(kinds: dict[str, list[Note]]) -> list[str]:
  """Formats notes by kind: a count, then the first ones."""
  lines = []
  for kind, notes in kinds.items():
    if notes:
      meaning = _MEANINGS[kind]
      lines.append(f"{kind:<9} {len(notes)}: {meaning}")
      lines += _listed(notes, _MOST_NOTES, NOTES)
  return lines


def write_notes(path: Path, kinds: dict[str, list[Note]]) -> None:
  """Writes notes by kind to a file of JSON lines."""
  _write_lines(
    path,
    (
      {"kind": kind, "where": where, "note": what}
      for kind, notes in kinds.items()
      for where, what in notes
    ),
  )


def read_notes(path: Path) -> dict[str, list[Note]]:
  """Reads what `write_notes` wrote; data sets of earlier versions have none.

  Raises:
    UserError: the file is damaged.
  """
  kinds: dict[str, list[Note]] = {}
  if path.exists():
    for line in inputs.read_text(path, most=inputs.MOST_ROWS).splitlines():
      row = inputs.parse_json(line, path)
      try:
        kind, note = row["kind"], Note(str(row["where"]), str(row["note"]))
        kinds.setdefault(kind, []).append(note)
      except (KeyError, TypeError):
        raise UserError(
          f"{path}: is damaged, and nothing else needs it; delete it."
        ) from None
  return kinds


def _listed(notes: Sequence[tuple[str, str]], most: int, file: str) -> list:
  lines = [f"  {_shown(where)}: {_shown(what)}" for where, what in notes[:most]]
  if len(notes) > most:
    lines.append(f"  and {len(notes) - most} more, all listed in {file}")
  return lines


def _shown(text: str) -> str:
  """Shortens a text for a terminal and escapes its control characters."""
  text = text if text.isprintable() else repr(text)[1:-1]
  return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def _write_lines(path: Path, rows: Iterator[dict]) -> None:
  # ASCII, because a name that is not UTF-8 must not end a run after hours.
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
