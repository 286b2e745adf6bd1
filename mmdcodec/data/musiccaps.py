"""Labels of MusicCaps (Agostinelli et al. 2023, arXiv 2301.11325).

MusicCaps has 5521 clips of 10 s from AudioSet, described by musicians. The
published table has the columns ytid, start_s, end_s, audioset_positive_labels,
aspect_list, caption, author_id, is_balanced_subset, is_audioset_eval. The audio
is not published; download tools name the clips by ytid: `ytid.wav`,
`ytid_30_40.wav` or `[ytid]-[30-40].wav`.
"""

import ast
import csv
from pathlib import Path

from mmdcodec.data import captions
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
  try:
    with table.open(encoding="utf-8-sig", newline="") as text:
      header = next(csv.reader(text))
  except (OSError, StopIteration, UnicodeDecodeError, csv.Error):
    return False
  return {"ytid", "caption"} <= set(header)


def labels(
  folder: Path, table: Path, paths: list[Path] | None = None
) -> captions.Labels:
  """Reads the labels of MusicCaps clips named by ytid.

  Args:
    folder: not used; its clips must already be cut to their 10 seconds.
    table: the CSV of MusicCaps.
    paths: not used.

  Raises:
    UserError: the table is not that of MusicCaps.
  """
  del folder, paths  # clips are named by their id, in any folder
  if not is_table(table):
    raise UserError(
      f"{table}: expected the CSV of MusicCaps, with columns ytid and caption."
    )
  rows = {}
  for row in captions.read_rows(table):
    tags = {k: row[k] for k in _TAGS if row.get(k)}
    tags["aspects"] = _aspects(row.get("aspect_list") or "")
    tags["audioset"] = (row.get("audioset_positive_labels") or "").split(",")
    tags = {k: v for k, v in tags.items() if v not in ([], [""])}
    label = captions.Label((row["caption"] or "").strip(), tags)
    rows[(row["ytid"] or "").strip()] = label

  def label_of(path: Path) -> captions.Label:
    stem = path.stem.lstrip("[")
    # Ids have 11 characters, which may be "-" or "_", so no separator is safe.
    return rows.get(path.stem) or rows.get(stem[:11]) or captions.Label()

  return label_of


def _aspects(text: str) -> list[str]:
  """Parses `"['pop', 'mellow piano']"`; other text becomes one aspect."""
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = text
  return [str(v) for v in value] if isinstance(value, list) else [text]
