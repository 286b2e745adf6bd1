"""The shards of a token data set that is being made.

How records are divided depends only on their number, and the records of a shard
are encoded in the same batches whoever does it. A finished shard has its final
name, which says how many frames it holds; beside it is a file with notes.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmdcodec.data import (
  dataset_folder,
  record_encoder,
  report,
  token_records,
)
from mmdcodec.data.record_source import Source
from mmdcodec.data.tables import Note
from mmdcodec.store import paths, uploads
from mmdcodec.tokenizers.interface import Tokenizer

# Records per shard: few enough to share a small data set between processes and
# to lose little work when killed, more if there would be too many files.
_LEAST, _MOST, _SHARDS = 128, 4096, 1024


def write_share(
  source: Source,
  tokenizers: Mapping[str, Tokenizer],
  unfinished: Path,
  *,
  batch: int,
  process_index: int,
  process_count: int,
  show: Callable[[int, int], None] = lambda done, total: None,
) -> None:
  """Writes the missing shards of one process.

  Args:
    source: the audio data set.
    tokenizers: tokenizers that make the codes, by the names of their folders.
    unfinished: folder of the shards.
    batch: records encoded at a time on each device.
    process_index: index of the process whose share is written.
    process_count: number of processes that share the shards.
    show: called regularly with (records done, total).
  """
  shards = divide(len(source))
  mine = range(process_index, len(shards), process_count)
  folders = [unfinished / name for name in tokenizers]
  for folder in folders:
    folder.mkdir(exist_ok=True)
  there = set.intersection(*({*finished(folder)} for folder in folders))
  todo = [shard for shard in mine if shard not in there]
  total = sum(len(shards[shard]) for shard in mine)
  done = total - sum(len(shards[shard]) for shard in todo)
  show(done, total)
  parts = (part for shard in todo for part in _cut(shards[shard], batch))
  serialize = dataset_folder.serializer(token_records.features())
  models = [*tokenizers.values()]
  with contextlib.closing(
    record_encoder.encoded(source, models, parts, min(batch, len(source)))
  ) as encoded:
    for shard in todo:
      batches = len(_cut(shards[shard], batch))
      with contextlib.ExitStack() as stack:
        files = [
          stack.enter_context(_shard(folder, shard)) for folder in folders
        ]
        for made in itertools.islice(encoded, batches):
          for file, records in zip(files, made, strict=True):
            for record in records:
              file.write(serialize(record), record)
          done += len(made[0])
          show(done, total)


class _Shard:
  """A shard that is being written.

  Attributes:
    frames: frames of the records so far.
    constant: notes of records that encode to one code.
  """

  def __init__(self, writer: Any):
    self.writer, self.frames = writer, 0
    self.constant: list[Note] = []

  def write(self, data: bytes, record: dict) -> None:
    """Adds a record, given as bytes and as it was."""
    self.writer.write(data)
    self.frames += record["frames"]
    if token_records.is_constant(record):
      place = f"from {record['position']:.1f} s"
      self.constant.append(Note(record["path"], place))


@contextlib.contextmanager
def _shard(folder: Path, number: int) -> Iterator[_Shard]:
  """Opens a shard, which gets its name if the block succeeds."""
  with contextlib.ExitStack() as stack:
    place = folder
    if paths.is_url(folder):
      place = stack.enter_context(uploads.scratch())
    partial = place / f"partial-{number:05d}"
    with contextlib.closing(dataset_folder.shard_writer(partial)) as writer:
      shard = _Shard(writer)
      yield shard
    report.write_notes(_notes(folder, number), {"constant": shard.constant})
    # The name holds the number of frames, so that totals need no reading.
    paths.move(partial, folder / f"shard-{number:05d}-{shard.frames}")


def divide(records: int) -> list[range]:
  """Divides records into shards; depends only on their number."""
  size = min(max(_LEAST, -(-records // _SHARDS)), _MOST)
  return _cut(range(records), size)


def _cut(records: range, size: int) -> list[range]:
  """Cuts a range into parts of `size` records; the last may be shorter."""
  return [records[i : i + size] for i in range(0, len(records), size)]


def finished(unfinished: Path) -> dict[int, Path]:
  """Finds the shards in an unfinished folder, by number."""
  return {int(p.name.split("-")[1]): p for p in unfinished.glob("shard-*")}


def constant(unfinished: Path, shard: int) -> list[Note]:
  """Reads the notes of a finished shard on records that encode to one code."""
  return report.read_notes(_notes(unfinished, shard)).get("constant", [])


def _notes(unfinished: Path, shard: int) -> Path:
  """Path of the notes on a shard."""
  return unfinished / f"notes-{shard:05d}.jsonl"
