"""Labels of FMA, the Free Music Archive data set (Defferrard et al. 2017).

Audio: `fma_small/000/000002.mp3`, the folder named by the first three of six
digits. Metadata (`fma_metadata.zip`): `tracks.csv`, with two header rows
(`set`/`split`, `track`/`genre_top`, ...) and a third row that names the index;
`genres.csv`: genre_id, #tracks, parent, title, top_level. FMA has no captions,
so genres and tags take their place.
"""

from collections.abc import Iterator
from pathlib import Path

from mmdcodec.audio import files
from mmdcodec.data import captions, tables
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
  if not tables.is_delimited(table):
    return False
  try:
    rows = tables.read_cells(table, [], header=2)
    (_, first), (_, second) = next(rows), next(rows)
  except (UserError, StopIteration):
    return False
  return ("set", "split") in zip(first, second, strict=False)


def labels(
  folder: Path, table: Path, paths: list[Path] | None = None
) -> captions.Labels:
  """Reads the labels of FMA's tracks, by the number in the file name.

  Args:
    folder: folder of the audio; the table names tracks by number, in any of its
      folders.
    table: `tracks.csv`; `genres.csv` beside it has the names of genres.
    paths: the audio files; None finds them in `folder`.

  Raises:
    UserError: the table is not FMA's.
  """
  if not is_table(table):
    raise UserError(
      f"{table}: expected tracks.csv of FMA, with a column set/split."
    )
  notes = captions.Notes()
  names = _genres(table.parent / "genres.csv", notes.unread)
  return captions.labels_by_key(
    _rows(table, names, notes.unread),
    lambda path: [_number(path.stem)],
    files.find(folder) if paths is None else paths,
    notes,
  )


def _rows(
  table: Path, names: dict[int, str], notes: list[tables.Note]
) -> Iterator[tuple[str, int, captions.Label]]:
  """Yields place, number and label of each track."""
  rows = tables.read_cells(table, notes, header=2)
  columns = list(zip(next(rows)[1], next(rows)[1], strict=False))
  picked = [(i, _TAGS[c]) for i, c in enumerate(columns) if c in _TAGS]
  for where, row in rows:
    tags = {tag: row[i] for i, tag in picked if i < len(row) and row[i]}
    number, label = _number(row[0]), _label(tags, names)
    if row[0] == "track_id":  # the third row names the index
      continue
    if number is None:
      notes.append(tables.Note(where, "begins with no number of a track"))
    elif label is None:
      notes.append(tables.Note(where, "its genres or tags are no list"))
    else:
      yield where, number, label


def _number(text: str) -> int | None:
  """Returns the number of a track; None if a text is none."""
  digits = text.isascii() and text.isdigit() and len(text) < 10
  return int(text) if digits else None


def _label(tags: dict, names: dict[int, str]) -> captions.Label | None:
  for key in ("genres", "tags"):
    tags[key] = tables.parse_list(tags.get(key, "[]"))
    if tags[key] is None:
      return None
  tags["genres"] = [names.get(g, str(g)) for g in tags["genres"]]
  words = [tags.get("genre", ""), *tags["genres"], *map(str, tags["tags"])]
  caption = ", ".join(dict.fromkeys(w for w in words if w))
  return captions.Label(caption, {k: v for k, v in tags.items() if v})


def _genres(table: Path, notes: list[tables.Note]) -> dict[int, str]:
  """Reads the names of genres, by number."""
  found = {}
  for where, row in tables.read_rows(table, notes) if table.is_file() else ():
    number = _number(row.get("genre_id", ""))
    if number is None:
      notes.append(tables.Note(where, "has no number of a genre"))
    elif title := row.get("title"):
      found[number] = title
  return found
