"""Labels of MusicCaps (Agostinelli et al. 2023, arXiv 2301.11325).

MusicCaps has 5521 clips of 10 s from AudioSet, described by musicians. The
published table has the columns ytid, start_s, end_s, audioset_positive_labels,
aspect_list, caption, author_id, is_balanced_subset, is_audioset_eval. The audio
is not published; download tools name the clips by ytid: `ytid.wav`,
`ytid_30_40.wav` or `[ytid]-[30-40].wav`.
"""

from collections.abc import Iterator
from pathlib import Path

from mmdcodec.audio import files
from mmdcodec.data import captions, tables
from mmdcodec.errors import UserError

_TAGS = (
  "ytid",
  "start_s",
  "end_s",
  "author_id",
  "is_balanced_subset",
  "is_audioset_eval",
)


def is_table(table: Path) -> bool:
  """Returns whether a file is the table of MusicCaps, by its header."""
  if not tables.is_delimited(table):
    return False
  try:
    _, header = next(tables.read_cells(table, []))
  except (UserError, StopIteration):
    return False
  return {"ytid", "caption"} <= set(header)


def labels(
  folder: Path, table: Path, paths: list[Path] | None = None
) -> captions.Labels:
  """Reads the labels of MusicCaps clips named by ytid.

  Args:
    folder: folder of the clips, which must already be cut to their 10 seconds;
      the table names them by ytid, in any of its folders.
    table: the CSV of MusicCaps.
    paths: the clips; None finds them in `folder`.

  Raises:
    UserError: the table is not that of MusicCaps.
  """
  if not is_table(table):
    raise UserError(
      f"{table}: expected the CSV of MusicCaps, with columns ytid and caption."
    )
  notes = captions.Notes()
  return captions.labels_by_key(
    _rows(table, notes.unread),
    # Ids have 11 characters, which may be "-" or "_", so no separator is safe.
    lambda path: [path.stem, path.stem.lstrip("[")[:11]],
    files.find(folder) if paths is None else paths,
    notes,
  )


def _rows(
  table: Path, notes: list[tables.Note]
) -> Iterator[tuple[str, str, captions.Label]]:
  """Yields place, id and label of each clip."""
  for where, row in tables.read_rows(table, notes, once=("ytid", "caption")):
    tags: dict = {k: row[k] for k in _TAGS if row.get(k)}
    tags["aspects"] = _aspects(row.get("aspect_list", ""))
    tags["audioset"] = row.get("audioset_positive_labels", "").split(",")
    tags = {k: v for k, v in tags.items() if v not in ([], [""])}
    if id_ := row.get("ytid", "").strip():
      yield where, id_, captions.Label(row.get("caption", "").strip(), tags)
    else:
      notes.append(tables.Note(where, "has no ytid"))


def _aspects(text: str) -> list[str]:
  """Parses `"['pop', 'mellow piano']"`; other text becomes one aspect."""
  found = tables.parse_list(text)
  return [text] if found is None else [str(each) for each in found]
