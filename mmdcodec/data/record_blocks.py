"""The blocks of an audio data set that several commands make.

A block is the records of a few files that follow one another. How files are
divided into blocks depends on their sizes alone, so it does not matter which
command makes which block, nor when. A finished block is two files beside the
data set, the second of which says that it is finished:

    .DATASET.unfinished/JOB-00012.records   its records
    .DATASET.unfinished/JOB-00012.json      their sizes, and what was left out
    .DATASET.unfinished/JOB.json            what the job depends on

JOB is a digest of the last of these, so jobs with other audio or options never
mix. Each file is written whole or not at all, and without locks; two commands
that make the same block write the same bytes.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from array_record.python import array_record_data_source

from mmdcodec.data import dataset_folder, record_writer
from mmdcodec.data.record_job import Job
from mmdcodec.data.report import Report
from mmdcodec.data.tables import Note
from mmdcodec.errors import UserError
from mmdcodec.store import atomic, inputs, paths, uploads

# Bytes of the audio files of a block: few enough to lose little work when
# killed and to keep all commands busy, more if there would be too many blocks.
_LEAST, _MOST, _BLOCKS = 1 << 20, 256 << 20, 4096

# What goes from a report into a block, and back.
_COUNTS, _LISTS = ("files", "captioned"), ("skipped", "silent", "levels")


def divide(sizes: Sequence[int]) -> list[range]:
  """Divides files into blocks.

  Args:
    sizes: bytes of each file.

  Returns:
    The indices of the files in each block.
  """
  most = min(max(_LEAST, sum(sizes) // _BLOCKS), _MOST)
  blocks, start, size = [], 0, 0
  for i, each in enumerate(sizes):
    if i > start and size + each > most:
      blocks.append(range(start, i))
      start, size = i, 0
    size += each
  return [*blocks, range(start, len(sizes))]


class Blocks:
  """The blocks of a job.

  Attributes:
    folder: folder of their files.
    files: indices of the files in each block.
  """

  def __init__(self, job: Job):
    """Takes the job; nothing is written yet."""
    self._job = job
    self.folder = job.out.with_name(f".{job.out.name}.unfinished")
    self.files = divide([source.size for source in job.sources])

  def __len__(self) -> int:
    """Number of blocks."""
    return len(self.files)

  def begin(self) -> None:
    """Writes what the job depends on, unless another job is there.

    With `force`, the blocks of other jobs are deleted.

    Raises:
      UserError: there are blocks of another job.
    """
    for path in self._settings():
      if path.name != f"{self._job.digest}.json":
        if not self._job.force:
          raise UserError(
            f"{self.folder} holds parts of a data set of other audio or with"
            f" other options ({self._difference(path)}); give the same as"
            " before, or --force to begin again."
          )
        self._remove(path.stem)
    self.folder.mkdir(parents=True, exist_ok=True)
    own = self.folder / f"{self._job.digest}.json"
    atomic.write_json(own, self._job.settings)

  def finished(self) -> set[int]:
    """Returns the numbers of the blocks that are there."""
    found = self.folder.glob(f"{self._job.digest}-*.json")
    return {int(path.stem.rpartition("-")[2]) for path in found}

  def has(self, number: int) -> bool:
    """Whether a block is there."""
    return self._note(number).exists()

  def write(
    self, numbers: Sequence[int], *, workers: int, progress: bool
  ) -> None:
    """Makes blocks.

    Args:
      numbers: which ones.
      workers: files in progress at a time.
      progress: whether to show a progress line on stderr.
    """
    report = Report(rate=self._job.report.rate)
    report.channels = self._job.report.channels
    serialize = dataset_folder.serializer(record_writer.features())
    sources = [self._job.sources[i] for n in numbers for i in self.files[n]]
    with contextlib.ExitStack() as stack:
      scratch = stack.enter_context(atomic.scratch(self._job.out))
      found = record_writer.records(
        sources,
        report,
        seconds=self._job.seconds,
        workers=workers,
        scratch=scratch,
        progress=progress,
      )
      stack.enter_context(contextlib.closing(found))
      for number in numbers:
        counts = {name: getattr(report, name) for name in _COUNTS}
        lists = {name: len(getattr(report, name)) for name in _LISTS}
        sizes = []
        with atomic.file(self._data(number)) as partial:
          with contextlib.closing(
            dataset_folder.shard_writer(partial)
          ) as writer:
            for records in itertools.islice(found, len(self.files[number])):
              for record in records:
                data = serialize(record)
                writer.write(data)
                sizes.append([len(data), record["samples"]])
        note = {k: getattr(report, k) - n for k, n in counts.items()}
        note |= {k: getattr(report, k)[n:] for k, n in lists.items()}
        atomic.write_json(self._note(number), note | {"records": sizes})

  def read_notes(self) -> list[int]:
    """Fills in the report of the job; returns the records of each block."""
    report, counts = self._job.report, []
    for number in range(len(self)):
      note = inputs.read_object(self._note(number))
      try:
        for name in _COUNTS:
          setattr(report, name, getattr(report, name) + note[name])
        report.skipped += [(str(k), str(v)) for k, v in note["skipped"]]
        report.silent += [Note(*each) for each in note["silent"]]
        report.levels += [Note(*each) for each in note["levels"]]
        # One by one, because the order of a sum changes its last digits.
        for _, samples in note["records"]:
          report.seconds += samples / report.rate
        counts.append(len(note["records"]))
      except (KeyError, TypeError, ValueError):
        self._refuse(number)
    report.records = sum(counts)
    return counts

  def examples(self, counts: Sequence[int]) -> Iterator[bytes]:
    """Yields the serialised records of all blocks, in order.

    Args:
      counts: number of records of each block.

    Raises:
      UserError: a block is damaged; it is deleted, to be made again.
    """
    for number, count in enumerate(counts):
      if not count:
        continue
      with self._local(number) as path:
        try:
          records = array_record_data_source.ArrayRecordDataSource([str(path)])
          if len(records) != count:
            raise ValueError(f"{len(records)} of {count} records")
        except (RuntimeError, ValueError, OSError):
          self._refuse(number)
        for i in range(count):
          try:
            data = records[i]
          except (RuntimeError, ValueError, OSError):
            self._refuse(number)
          yield data

  def shard(self, number: int) -> Path:
    """Name for a shard of the data set that is made of the blocks."""
    return self.folder / f"{self._job.digest}-shard-{number:05d}"

  def remove(self) -> None:
    """Deletes the files of the job, of which this process has the lock."""
    self._remove(self._job.digest)
    if not isinstance(self.folder, paths.Url) and not [*self._settings()]:
      paths.remove(self.folder)

  def _settings(self) -> list[Path]:
    """Files with the settings of the jobs in the folder."""
    found = self.folder.glob("*.json")
    return sorted(path for path in found if "-" not in path.name)

  def _difference(self, path: Path) -> str:
    """Says what distinguishes another job from this one."""
    before = inputs.read_object(path)
    words = [
      f"{name.replace('_', ' ')} was {before.get(name)}, is {value}"
      for name, value in self._job.settings.items()
      if before.get(name) != value
    ]
    return ", ".join(words[:2])

  def _remove(self, digest: str) -> None:
    """Deletes the files of a job, the one that says so first."""
    (self.folder / f"{digest}.json").unlink(missing_ok=True)
    for path in [*self.folder.glob(f"*{digest}-*")]:
      if path.is_dir():
        paths.remove(path)
      else:
        path.unlink(missing_ok=True)

  def _refuse(self, number: int) -> NoReturn:
    self._note(number).unlink(missing_ok=True)
    raise UserError(
      f"{self._data(number)}: was damaged; it counts as missing now, so run the"
      " same command again."
    )

  @contextlib.contextmanager
  def _local(self, number: int) -> Iterator[Path]:
    """A file of this machine with the records of a block."""
    path = self._data(number)
    if not isinstance(path, paths.Url):
      yield path
      return
    with uploads.scratch() as scratch:
      path.download(copy := scratch / "block")
      yield copy

  def _data(self, number: int) -> Path:
    return self.folder / f"{self._job.digest}-{number:05d}.records"

  def _note(self, number: int) -> Path:
    return self.folder / f"{self._job.digest}-{number:05d}.json"
