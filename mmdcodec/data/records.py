"""Makes data sets of FLAC records from audio folders, by TFDS without TF.

TFDS's own audio feature needs TensorFlow (its issue 11233), so a record holds
the bytes of a FLAC file. Its writer uses TensorFlow's file functions beyond
1 GB, so the builders here write their records themselves, in order.

A data set is a folder with ArrayRecord shards, TFDS's description of them
(`tfds.builder_from_directory(folder).as_data_source("train")` reads it), a
summary in `mmdcodec.json`, the skipped files in `skipped.jsonl`, and in
`notes.jsonl` the captions that were left out and the silent records.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mmdcodec.audio import files
from mmdcodec.data import (
  audio_sources,
  captions,
  fma,
  musiccaps,
  record_writer,
  shard_files,
)
from mmdcodec.data.dataset_folder import (
  check_out,
  serializer,
  shard_writer,
)
from mmdcodec.data.record_job import Job
from mmdcodec.data.report import Report
from mmdcodec.errors import UserError
from mmdcodec.platform import cpus
from mmdcodec.store import atomic
from mmdcodec.store import paths as store_paths

# Bytes per shard: small enough to copy shards in parallel, large enough that a
# thousand hours make only a few hundred files.
_SHARD = 256 << 20

# Hz that a FLAC file can have.
_MAX_RATE = 655_350

Serialize = Callable[[dict], bytes]


class AudioFolder(tfds.core.GeneratorBasedBuilder):
  """Any folder of audio, with captions from a table or sidecar files.

  A subclass for another data set says how its labels are found.
  """

  VERSION = tfds.core.Version("1.0.0")
  labels: Callable = staticmethod(captions.labels)

  # Nothing is downloaded, so there are no checksums or sizes.
  url_infos: dict = {}
  _log_download_bytes = _log_download_done = lambda self: None

  def __init__(
    self,
    *,
    examples: Callable[[Serialize], Iterator[bytes]],
    finished: Callable[[Path], None] = lambda shard: None,
    **kwargs: Any,
  ):
    """Takes what to write.

    Args:
      examples: makes the serialised records, given a function from a record to
        bytes.
      finished: called with each shard, which it may empty.
      **kwargs: other arguments go to TFDS.
    """
    self._examples, self._finished = examples, finished
    super().__init__(file_format="array_record", **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=" ".join((type(self).__doc__ or "").split()),
      features=record_writer.features(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, bytes]]:
    yield from enumerate(self._examples(serializer(self.info.features)))

  def _download_and_prepare(
    self, dl_manager: Any, download_config: Any
  ) -> None:
    """Writes the records in order, one shard after the other.

    TFDS would first collect and shuffle them, in a gigabyte of memory; the
    training pipeline shuffles anyway.
    """
    del download_config
    splits = []
    for split, generator in self._split_generators(dl_manager).items():
      lengths, sizes = _write_shards(
        self.data_path, (data for _, data in generator), self._finished
      )
      template = self._get_filename_template(split_name=split)
      for i, shard in enumerate(_shards(self.data_path, len(lengths))):
        os.rename(
          shard, template.sharded_filepath(shard_index=i, num_shards=len(sizes))
        )
      splits.append(
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=lengths,
          num_bytes=sum(sizes),
          filename_template=template,
        )
      )
    self.info.set_splits(tfds.core.SplitDict(splits))


class Fma(AudioFolder):
  """The Free Music Archive data set, with its tracks.csv and genres.csv."""

  labels = staticmethod(fma.labels)


class MusicCaps(AudioFolder):
  """MusicCaps: a folder of clips named by ytid, with its CSV of captions."""

  labels = staticmethod(musiccaps.labels)


def builder_for(table: Path | None) -> type[AudioFolder]:
  """Chooses the builder for a caption file by its header."""
  if table and fma.is_table(table):
    return Fma
  if table and musiccaps.is_table(table):
    return MusicCaps
  return AudioFolder


def prepare(
  folder: str | os.PathLike,
  out: str | os.PathLike,
  *,
  rate: int = 24000,
  channels: int = 1,
  seconds: float = 30.0,
  captions: str | os.PathLike | None = None,
  only: dict[str, str] | None = None,
  paths: Collection[Path] | None = None,
  workers: int | None = None,
  progress: bool = True,
  force: bool = False,
) -> Report:
  """Cuts a folder of audio into a data set of FLAC records.

  Records have `seconds`; the last one of a file has 0.5 to 1.5 times that, so
  no audio is lost and nothing is padded. 16-bit files with the same rate and
  channels are kept bit for bit. A file that cannot be read to its end
  contributes nothing; it is listed in the report and in `skipped.jsonl`. A row
  of the table or a sidecar file that cannot be read labels nothing; such rows,
  and silent records, are listed in the report and in `notes.jsonl`.
  The result does not depend on the number of workers. The data set appears
  under its name only when it is complete.

  Args:
    folder: folder of the audio; subfolders are searched too.
    out: folder of the data set to write.
    rate: sample rate of the records in Hz.
    channels: channels of the records; see `mmdcodec.audio.files.mix`.
    seconds: length of a record.
    captions: a table of captions and tags (see `mmdcodec.data.captions`), the
      `tracks.csv` of FMA or the CSV of MusicCaps.
    only: tags that a file must have to be used, such as {"split": "train"}.
    paths: files to use, from those that `files.find` returns; None: all.
    workers: files in progress at a time; None is one per CPU.
    progress: whether to show a progress line on stderr.
    force: whether to replace an existing data set.

  Returns:
    The `Report`; its `str` is the table to print.

  Raises:
    UserError: no audio, no readable audio, an unsuitable caption file, or `out`
      exists.
    ValueError: no file of the folder is among `paths`.
  """
  workers = check_workers(workers)
  atomic.restore_folder(store_paths.real(out))
  check_out(store_paths.real(out), force, "audio")
  job = plan(
    folder,
    out,
    rate=rate,
    channels=channels,
    seconds=seconds,
    captions=captions,
    only=only,
    paths=paths,
    force=force,
  )
  job.out.parent.mkdir(parents=True, exist_ok=True)
  with atomic.scratch(job.out) as scratch:

    def examples(serialize: Serialize) -> Iterator[bytes]:
      with contextlib.closing(
        record_writer.records(
          job.sources,
          job.report,
          seconds=job.seconds,
          workers=workers,
          scratch=scratch,
          progress=progress,
        )
      ) as found:
        for record in itertools.chain.from_iterable(found):
          yield serialize(record)

    data = build(job, scratch, examples)
    job.summarise(data, shard_files.marks(data))
    atomic.replace_folder(data, job.out)
  return job.report


def plan(
  folder: str | os.PathLike,
  out: str | os.PathLike,
  *,
  rate: int,
  channels: int,
  seconds: float,
  captions: str | os.PathLike | None = None,
  only: dict[str, str] | None = None,
  paths: Collection[Path] | None = None,
  force: bool = False,
) -> Job:
  """Finds the audio and its labels; see `prepare`."""
  # Links are followed, so that the folder they point to is replaced.
  folder = store_paths.on_disk(folder, "the audio")
  out = store_paths.real(out)
  table = None
  if captions is not None:
    table = store_paths.on_disk(captions, "the table of captions")
  _check("rate", rate, 1000, _MAX_RATE)
  _check("channels", channels, 1, 8)
  _check("seconds", seconds, 0.1, 3600)
  builder = builder_for(table)
  report = Report(rate=rate, channels=channels, path=str(out))
  sources = audio_sources.find(folder, table, builder.labels, report)
  if paths is not None:
    sources, report.skipped = [s for s in sources if s.path in paths], []
    if not sources:
      raise ValueError(f"none of the paths is an audio file of {folder}")
  sources = audio_sources.with_tags(sources, only)
  return Job(folder, out, builder, sources, report, seconds, force)


def check_workers(workers: int | None) -> int:
  """Returns the number of files in progress at a time."""
  _check("workers", workers or 1, 1, 1024)
  return workers or cpus()


def build(
  job: Job,
  scratch: Path,
  examples: Callable[[Serialize], Iterator[bytes]],
  finished: Callable[[Path], None] = lambda shard: None,
) -> Path:
  """Runs a builder inside `scratch` and returns the folder it made.

  Args:
    job: the data set; `examples` fills in its report.
    scratch: folder of this machine.
    examples: see `AudioFolder`.
    finished: see `AudioFolder`.

  Raises:
    UserError: there is no record.
  """
  made = job.builder(
    data_dir=scratch / "tfds", examples=examples, finished=finished
  )
  made.download_and_prepare(download_dir=scratch / "downloads")
  if not job.report.records:
    skipped = job.report.skipped[:3]
    reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped)
    raise UserError(
      f"{job.folder}: no audio file could be read ({reasons}); expected"
      f" {' '.join(files.SUFFIXES)}."
    )
  return Path(made.data_path)


def _check(name: str, value: float, least: float, most: float) -> None:
  if not least <= value <= most:
    raise UserError(f"{name} must be from {least} to {most}, not {value}.")


def _write_shards(
  folder: Path, examples: Iterator[bytes], finished: Callable[[Path], None]
) -> tuple[list[int], list[int]]:
  """Writes shards of about `_SHARD` bytes; returns their counts and sizes."""
  lengths, sizes, writer, path = [], [], None, folder
  try:
    for example in examples:
      if writer is None or sizes[-1] + len(example) > _SHARD:
        if writer is not None:
          writer.close()
          finished(path)
        path = next(_shards(folder, 1, first=len(lengths)))
        writer = shard_writer(path)
        lengths.append(0)
        sizes.append(0)
      writer.write(example)
      lengths[-1] += 1
      sizes[-1] += len(example)
  finally:
    if writer is not None:
      writer.close()
  if lengths:
    finished(path)
  return lengths, sizes


def _shards(folder: Path, count: int, first: int = 0) -> Iterator[Path]:
  """Yields names for shards while their total number is unknown."""
  for i in range(first, first + count):
    yield folder / f"shard-{i:05d}"
