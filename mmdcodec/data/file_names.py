"""Finds the audio files that the rows of a table name.

Tables come from other machines and times: with backslashes between folders, in
another case, with accents composed or not (macOS), or with the suffix that the
files had before they were converted. The closest spelling counts.
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmdcodec.audio import formats

_SUFFIXES = frozenset(formats.READABLE + formats.UNSUPPORTED)


class Match(NamedTuple):
  """The files that a name may mean; `distance` is 0 if it is their path."""

  distance: int
  paths: list[Path]


class FileNames:
  """The names of audio files."""

  def __init__(self, paths: Iterable[Path], roots: Sequence[Path]):
    """Takes the files.

    Args:
      paths: the audio files.
      roots: folders that the paths in a table may be relative to.
    """
    self._paths = list(paths)
    self._roots = [os.path.abspath(root) for root in roots]
    # Most tables name files by their path, and need no other index.
    self._indexes: list[dict[str, list[Path]]] = [{}]
    for path in self._paths:
      self._indexes[0].setdefault(os.path.abspath(path), []).append(path)

  def find(self, name: str) -> Match | None:
    """Finds the files that a name in a table may mean.

    Args:
      name: a path, absolute or relative to a root; or a bare name, with or
        without suffix, of a file in any folder.

    Returns:
      The match, of several files if the name fits them equally; None if it fits
      none.
    """
    for distance, keys in enumerate(self._wanted(name)):
      if distance == 1 and len(self._indexes) == 1:
        self._add_indexes()
      for key in keys:
        if found := self._indexes[distance].get(key):
          return Match(distance, found)
    return None

  def _wanted(self, name: str) -> Iterator[list[str]]:
    """Yields the keys to look up in each index, the closest one first.

    By path, by path in any spelling, by bare name, by bare name in any
    spelling, by path without suffix, by bare name without suffix.
    """
    yield self._full(name)
    slashed = name.replace("\\", "/")
    full = [_spellings(path) for path in self._full(slashed)]
    bare = [] if "/" in slashed else [_spellings(name)]
    yield [spelled for spelled, _ in full]
    yield [name] if bare else []
    yield [spelled for spelled, _ in bare]
    yield [stem for _, stem in full]
    yield [stem for _, stem in bare]

  def _full(self, name: str) -> list[str]:
    """Returns the absolute paths that a path in a table may stand for."""
    joined = [os.path.join(root, name) for root in self._roots]
    return [os.path.normpath(path) for path in dict.fromkeys(joined)]

  def _add_indexes(self) -> None:
    """Indexes the files by all but their paths, in the order of `_wanted`."""
    indexes: list[dict[str, list[Path]]] = [{} for _ in range(5)]
    for path in self._paths:
      full, full_stem = _spellings(os.path.abspath(path))
      bare, bare_stem = _spellings(path.name)
      keys = (full, path.name, bare, full_stem, bare_stem)
      for index, key in zip(indexes, keys, strict=True):
        index.setdefault(key, []).append(path)
    self._indexes += indexes


def _spellings(name: str) -> tuple[str, str]:
  """Returns a name in any spelling, with suffix and without."""
  if name.isascii():
    folded = name.lower()
  else:
    folded = unicodedata.normalize("NFC", name).casefold()
    folded = unicodedata.normalize("NFC", folded)
  stem, suffix = os.path.splitext(folded)
  return folded, stem if suffix in _SUFFIXES else folded
