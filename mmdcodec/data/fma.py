"""Labels of FMA, the Free Music Archive data set (Defferrard et al. 2017).

Audio: `fma_small/000/000002.mp3`, the folder named by the first three of six
digits. Metadata (`fma_metadata.zip`): `tracks.csv`, with two header rows
(`set`/`split`, `track`/`genre_top`, ...) and a third row that names the index;
`genres.csv`: genre_id, #tracks, parent, title, top_level. FMA has no captions,
so genres and tags take their place.
"""

import ast
import csv
from pathlib import Path

from mmdcodec.data import captions
from mmdcodec.errors import UserError

# column of tracks.csv -> tag
_TAGS = {
  ("set", "split"): "split",
  ("set", "subset"): "subset",
  ("track", "title"): "title",
  ("artist", "name"): "artist",
  ("album", "title"): "album",
  ("track", "genre_top"): "genre",
  ("track", "genres"): "genres",
  ("track", "tags"): "tags",
  ("track", "license"): "licence",
  ("track", "language_code"): "language",
}


def is_table(table: Path) -> bool:
  """Returns whether a file is FMA's `tracks.csv`, by its header rows."""
  try:
    with table.open(encoding="utf-8-sig", newline="") as text:
      first, second = next(csv.reader(text)), next(csv.reader(text))
  except (OSError, StopIteration, UnicodeDecodeError, csv.Error):
    return False
  return ("set", "split") in zip(first, second, strict=False)


def labels(
  folder: Path, table: Path, paths: list[Path] | None = None
) -> captions.Labels:
  """Reads the labels of FMA's tracks, by the number in the file name.

  Args:
    folder: not used.
    table: `tracks.csv`; `genres.csv` beside it has the names of genres.
    paths: not used.

  Raises:
    UserError: the table is not FMA's.
  """
  del folder, paths  # tracks are named by number, in any folder
  if not is_table(table):
    raise UserError(
      f"{table}: expected tracks.csv of FMA, with a column set/split."
    )
  names = _genres(table.parent / "genres.csv")
  rows = {}
  with table.open(encoding="utf-8-sig", newline="") as text:
    csv.field_size_limit(1 << 30)
    reader = csv.reader(text)
    columns = list(zip(next(reader), next(reader), strict=False))
    picked = [(i, _TAGS[c]) for i, c in enumerate(columns) if c in _TAGS]
    for row in reader:
      if row and row[0].isdigit():  # skips the row `track_id,,,`
        tags = {tag: row[i] for i, tag in picked if i < len(row) and row[i]}
        rows[int(row[0])] = _label(tags, names)

  def label(path: Path) -> captions.Label:
    stem = path.stem
    number = int(stem) if stem.isascii() and stem.isdigit() else -1
    return rows.get(number, captions.Label())

  return label


def _label(tags: dict, names: dict[int, str]) -> captions.Label:
  for key in ("genres", "tags"):
    tags[key] = _list(tags.get(key, "[]"))
  tags["genres"] = [names.get(g, str(g)) for g in tags["genres"]]
  words = [tags.get("genre", ""), *tags["genres"], *map(str, tags["tags"])]
  caption = ", ".join(dict.fromkeys(w for w in words if w))
  return captions.Label(caption, {k: v for k, v in tags.items() if v})


def _list(text: str) -> list:
  """Parses a Python list written as text, as pandas writes it to CSV."""
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return []
  return value if isinstance(value, list) else []


def _genres(table: Path) -> dict[int, str]:
  if not table.is_file():
    return {}
  return {
    int(row["genre_id"]): row["title"]
    for row in captions.read_rows(table)
    if str(row.get("genre_id", "")).isdigit() and row.get("title")
  }
