"""The shards of a data set, and the records in them.

ArrayRecord files have checksums, so damaged records are noticed when they are
read. Missing, cut and exchanged shards are noticed before: by their numbers,
and by marks in the summary of the data set.
"""

import concurrent.futures
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mmdcodec.errors import UserError
from mmdcodec.store import cached, inputs, paths

# Bytes at both ends of a shard that its mark covers.
_MARKED = 1 << 12

# What ArrayRecord raises for files that are damaged or gone.
_UNREADABLE = (RuntimeError, ValueError, OSError)

# Not hidden ones: macOS writes `._name` beside a file on foreign disks.
_PATTERN = "[!.]*-train.array_record-*-of-*"


def find(folder: str | os.PathLike) -> list[Path]:
  """Returns the shards in a folder, in order."""
  return sorted(paths.of(folder).glob(_PATTERN))


def marks(folder: str | os.PathLike) -> list[str]:
  """Returns a mark for each shard in a folder; see `marks_of`."""
  return marks_of(find(folder))


def marks_of(shards: Sequence[Path]) -> list[str]:
  """Returns a mark for each shard, from its size and both ends.

  Raises:
    UserError: a shard cannot be read.
  """
  # Files in the network are slow to open.
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    return list(pool.map(_mark, shards))


def _mark(shard: Path) -> str:
  with inputs.open_file(shard) as file:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    digest = hashlib.sha256(b"%d " % size)
    digest.update(file.read(_MARKED))
    file.seek(max(0, size - _MARKED))
    digest.update(file.read())
  return digest.hexdigest()[:16]


class Shards:
  """Serialised examples by index, over all shards; thread-safe.

  Attributes:
    paths: the files; of a data set in an object store, copies of them.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    records: int,
    marked: list[str] | None,
    made_by: str,
  ):
    """Opens the shards.

    Args:
      folder: the data set.
      records: number of records, from the summary.
      marked: result of `marks` when the data set was made; None for those of
        earlier versions.
      made_by: the command that makes such a data set.

    Raises:
      UserError: a shard is missing, damaged or another one.
    """
    from array_record.python import array_record_data_source

    self._folder, self._made_by = folder, made_by
    self.paths = find(folder)
    self._check_names()
    self.paths = cached.local_files(self.paths)
    if marked is not None:
      for path, mark, expected in zip(
        self.paths, marks_of(self.paths), marked, strict=False
      ):
        if mark != expected:
          self._refuse(path.name, "is not the one that was written")
    # Opened together in parallel; one after the other to find the damaged one.
    self._open = array_record_data_source.ArrayRecordDataSource
    try:
      self._records = self._open([str(path) for path in self.paths])
    except _UNREADABLE as error:
      self._refuse(self._shard_of(None), "is damaged", error)
    if len(self._records) != records:
      raise UserError(
        f"{folder}: {len(self._records)} records are there, expected"
        f" {records}; {self._advice()}."
      )

  def __len__(self) -> int:
    """Number of records."""
    return len(self._records)

  def __getitem__(self, index: int) -> bytes:
    """Returns a serialised example.

    Raises:
      UserError: its shard is damaged.
    """
    try:
      return self._records[index]
    except _UNREADABLE as error:
      self._refuse(self._shard_of(index), "is damaged", error)

  def refuse_record(self, index: int) -> NoReturn:
    """Raises UserError for a record that is not one of this data set."""
    self._refuse(self._shard_of(index), "belongs to another data set")

  def _shard_of(self, index: int | None) -> str:
    """Names the shard with a record, or the first one that cannot be opened."""
    for path in self.paths:
      try:
        count = len(self._open([str(path)]))
      except _UNREADABLE:
        return path.name
      if index is not None:
        index -= count
        if index < 0:
          return path.name
    return self.paths[-1].name

  def _check_names(self) -> None:
    """Raises UserError unless the shards are numbered without gaps."""
    numbers = [re.search(r"(\d+)-of-(\d+)$", path.name) for path in self.paths]
    totals = {int(match[2]) for match in numbers if match}
    if not totals:
      raise UserError(f"{self._folder}: has no shards; {self._advice()}.")
    found = {int(match[1]) for match in numbers if match}
    missing = sorted({*range(max(totals))} - found)
    if missing:
      name = re.sub(
        r"\d+(-of-\d+)$", rf"{missing[0]:05d}\1", self.paths[0].name
      )
      more = f" and {len(missing) - 1} more" if missing[1:] else ""
      self._refuse(name, f"is missing{more}")
    if len(totals) > 1 or len(self.paths) > max(totals):
      self._refuse(self.paths[-1].name, "belongs to another data set")

  def _refuse(
    self, name: str, what: str, error: Exception | None = None
  ) -> NoReturn:
    raise UserError(
      f"{self._folder}: shard {name} {what}; {self._advice()}."
    ) from error

  def _advice(self) -> str:
    return f"copy it again, or make it again with `{self._made_by}`"
