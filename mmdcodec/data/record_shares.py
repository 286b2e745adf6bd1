"""Makes an audio data set in several commands that know nothing of each other.

Each command makes its share of the blocks (`record_blocks.py`). Whoever finds
all of them made puts them together, under a lock: the last one to end, or any
that is run again. The records, their order and the shards are those of one
command.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from mmdcodec.data import record_source, records, shard_files
from mmdcodec.data.record_blocks import Blocks
from mmdcodec.data.record_job import Job
from mmdcodec.data.records import Serialize
from mmdcodec.errors import UserError
from mmdcodec.store import atomic, disk, locks, paths, remote_locks, uploads


def make_share(
  job: Job, index: int, count: int, *, workers: int | None, progress: bool
) -> str:
  """Makes one of several shares of a data set, and the whole if it is the last.

  The number of shares may change from one call to the next: blocks that are
  there are kept, whoever made them.

  Args:
    job: the data set, the same for all shares.
    index: number of this share, from 1.
    count: number of shares.
    workers: files in progress at a time; None is one per CPU.
    progress: whether to show a progress line on stderr.

  Returns:
    What to print: the report of the data set, or how much is there.

  Raises:
    UserError: `index` is not in 1 to `count`, parts of another data set are
      there, or see `records.prepare`.
  """
  if not 1 <= index <= count:
    raise UserError(
      f"--shards is {index}/{count}; expected I/N with I from 1 to N."
    )
  workers = records.check_workers(workers)
  if (blocks := begin(job)) is None:
    return done(job)
  mine, there = range(index - 1, len(blocks), count), blocks.finished()
  todo = [number for number in mine if number not in there]
  with disk.named(job.out):
    try:
      blocks.write(todo, workers=workers, progress=progress)
    except FileNotFoundError:
      # Another command made these blocks too, and was faster.
      if not _is_done(job):
        raise
    return finish(job, blocks, count)


def begin(job: Job) -> Blocks | None:
  """Prepares the blocks of a data set; returns None if it is there already.

  Raises:
    UserError: see `make_share`.
  """
  blocks = Blocks(job)
  if _is_done(job):
    _tidy(blocks)
    return None
  job.check_out()
  blocks.begin()
  return blocks


def finish(job: Job, blocks: Blocks, count: int) -> str:
  """Puts the blocks together if all are there.

  Args:
    job: the data set.
    blocks: its blocks.
    count: number of shares.

  Returns:
    See `make_share`.
  """
  if _is_done(job):
    _tidy(blocks)
    return done(job)
  if words := _missing(job, blocks, count):
    return words
  lock = _take(blocks)
  if lock is None:
    return f"{job.out}: all parts are there; another command joins them."
  try:
    if _is_done(job):  # Another command was faster.
      blocks.remove()
      return done(job)
    if words := _missing(job, blocks, count):
      return words
    job.check_out()
    _join(job, blocks)
    blocks.remove()
  finally:
    lock.release()
  return str(job.report)


def done(job: Job) -> str:
  """What to print of a data set that is there already."""
  return (
    f"{job.out}: is complete, made of this audio with these options; delete it"
    " to make it again."
  )


def _join(job: Job, blocks: Blocks) -> None:
  """Makes the data set of its blocks."""
  counts = blocks.read_notes()
  marks: list[str] = []
  if not any(counts):
    blocks.remove()  # Nothing can come of them.

  def examples(serialize: Serialize) -> Iterator[bytes]:
    del serialize  # They are serialised.
    return blocks.examples(counts)

  def finished(shard: Path) -> None:
    marks.extend(shard_files.marks_of([shard]))
    if isinstance(job.out, paths.Url):
      # At once, so that this machine need not hold the whole data set.
      blocks.shard(len(marks) - 1).upload(shard)  # type: ignore[attr-defined]
      os.truncate(shard, 0)

  with atomic.scratch(job.out) as scratch:
    data = records.build(job, scratch, examples, finished)
    job.summarise(data, marks)
    if isinstance(job.out, paths.Url):
      objects = {}
      for i, shard in enumerate(shard_files.find(data)):
        objects[shard.name] = blocks.shard(i)
        shard.unlink()
      uploads.folder(data, job.out, objects)  # type: ignore[arg-type]
    else:
      atomic.replace_folder(data, job.out)


def _take(blocks: Blocks) -> locks.Lock | remote_locks.RemoteLock | None:
  """Takes the lock of the blocks; None if another command has it, or had it."""
  try:
    return locks.take(blocks.folder)
  except FileNotFoundError:
    return None


def _tidy(blocks: Blocks) -> None:
  """Removes blocks of a data set that is there.

  The command that made it may have been killed right after, and another one may
  have made blocks that were there.
  """
  if blocks.folder.is_dir() and (lock := _take(blocks)) is not None:
    blocks.remove()
    lock.release()


def _is_done(job: Job) -> bool:
  """Whether the data set is there, made of the same audio in the same way."""
  if uploads.is_unfinished(job.out):
    return False
  try:
    found = record_source.describe(job.out, "audio")
  except UserError:
    return False
  return found.get("made_from") == job.digest


def _missing(job: Job, blocks: Blocks, count: int) -> str:
  """Says which shares are to be made; "" if none is."""
  missing = {*range(len(blocks))} - blocks.finished()
  if not missing:
    return ""
  shares = sorted({number % count for number in missing})
  names = ", ".join(f"{share + 1}/{count}" for share in shares[:10])
  more = f" and {len(shares) - 10} more" if shares[10:] else ""
  return (
    f"{job.out}: {len(blocks) - len(missing)} of {len(blocks)} parts are there;"
    f" missing: those of --shards {names}{more}. The last command to end makes"
    " the data set; if none runs any more, run these again."
  )
