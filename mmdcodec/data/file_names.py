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

_SUFFIXES = formats.SUFFIXES + formats.UNSUPPORTED


class Match(NamedTuple):
  """The files that a name may mean; `distance` is 0 if it is their path."""

  distance: int
  paths: list[Path]


class FileNames:
  """The names of audio files."""

  def __init__(self, paths: Iterable[Path], roots: Sequence[Path]):
    """Indexes the files.

    Args:
      paths: the audio files.
      roots: folders that the paths in a table may be relative to.
    """
    self._roots = roots
    # By path, by path in any spelling, by bare name, by bare name in any
    # spelling, by path without suffix, by bare name without suffix.
    self._indexes: list[dict[str, list[Path]]] = [{} for _ in range(6)]
    for path in paths:
      keys = _keys(os.path.abspath(path)) + _keys(path.name)
      for index, key in zip(self._indexes, _in_order(keys), strict=True):
        index.setdefault(key, []).append(path)

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
      for key in keys:
        if found := self._indexes[distance].get(key):
          return Match(distance, found)
    return None

  def _wanted(self, name: str) -> Iterator[list[str]]:
    """Yields the keys to look up in each index."""
    slashed = name.replace("\\", "/")
    full = [
      [_keys(os.path.abspath(root / text)) for root in self._roots]
      for text in (name, slashed)
    ]
    bare = [_keys(name)] if "/" not in slashed else []
    yield [keys[0] for keys in full[0]]
    yield [keys[1] for keys in full[1]]
    yield [keys[0] for keys in bare]
    yield [keys[1] for keys in bare]
    yield [keys[2] for keys in full[1]]
    yield [keys[2] for keys in bare]


def _keys(name: str) -> tuple[str, str, str]:
  """Returns a name as it is, in any spelling, and also without suffix."""
  folded = unicodedata.normalize("NFC", name).casefold()
  folded = unicodedata.normalize("NFC", folded)
  stem, suffix = os.path.splitext(folded)
  return name, folded, stem if suffix in _SUFFIXES else folded


def _in_order(keys: tuple[str, ...]) -> tuple[str, ...]:
  """Orders the keys of a path and of its name as the indexes are."""
  path, any_path, path_stem, name, any_name, name_stem = keys
  return path, any_path, name, any_name, path_stem, name_stem
