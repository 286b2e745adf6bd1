"""Makes data sets of FLAC records from audio folders, by TFDS without TF.

TFDS's own audio feature needs TensorFlow (its issue 11233), so a record holds
the bytes of a FLAC file. Its writer uses TensorFlow's file functions beyond
1 GB, so the builders here write their records themselves, in order.

A data set is a folder with ArrayRecord shards, TFDS's description of them
(`tfds.builder_from_directory(folder).as_data_source("train")` reads it), a
summary in `mmdcodec.json`, the skipped files in `skipped.jsonl`, and in
`notes.jsonl` the captions that were left out and the silent records.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

import mmdcodec
from mmdcodec.audio import files, formats, resampling
from mmdcodec.data import captions, fma, musiccaps, record_writer, shard_files
from mmdcodec.data.dataset_folder import (
  check_out,
  serializer,
  shard_writer,
)
from mmdcodec.data.record_source import SUMMARY
from mmdcodec.data.report import Report
from mmdcodec.data.tables import Note
from mmdcodec.errors import UserError
from mmdcodec.platform import cpus
from mmdcodec.store import atomic
from mmdcodec.store import paths as store_paths

# Bytes per shard: small enough to copy shards in parallel, large enough that a
# thousand hours make only a few hundred files.
_SHARD = 256 << 20


def _features() -> tfds.features.FeaturesDict:
  return tfds.features.FeaturesDict(
    {
      "audio": tfds.features.Tensor(shape=(), dtype=np.object_),
      "rate": np.int32,
      "channels": np.int32,
      "samples": np.int64,
      "path": tfds.features.Text(),
      "position": np.float32,
      "caption": tfds.features.Text(),
      "tags": tfds.features.Text(),
    }
  )


class AudioFolder(tfds.core.GeneratorBasedBuilder):
  """Any folder of audio, with captions from a table or sidecar files.

  A subclass for another data set says how its labels are found.
  """

  VERSION = tfds.core.Version("1.0.0")
  labels: Callable = staticmethod(captions.labels)

  # Nothing is downloaded, so there are no checksums or sizes.
  url_infos: dict = {}
  _log_download_bytes = _log_download_done = lambda self: None

  def __init__(self, *, records: Callable[[], Iterator[dict]], **kwargs: Any):
    """Takes the records to write; other arguments go to TFDS."""
    self._records = records
    super().__init__(file_format="array_record", **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=" ".join((type(self).__doc__ or "").split()),
      features=_features(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict]]:
    yield from enumerate(self._records())

  def _download_and_prepare(
    self, dl_manager: Any, download_config: Any
  ) -> None:
    """Writes the records in order, one shard after the other.

    TFDS would first collect and shuffle them, in a gigabyte of memory; the
    training pipeline shuffles anyway.
    """
    del download_config
    serialize = serializer(self.info.features)
    splits = []
    for split, generator in self._split_generators(dl_manager).items():
      lengths, sizes = _write_shards(
        self.data_path,
        (serialize(record) for _, record in generator),
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
  # Links are followed, so that the folder they point to is replaced.
  folder = store_paths.on_disk(folder, "the audio")
  out = store_paths.real(out)
  table = None
  if captions is not None:
    table = store_paths.on_disk(captions, "the table of captions")
  for name, value, least, most in (
    ("rate", rate, 1000, resampling.MAX_RATE),
    ("channels", channels, 1, 8),
    ("seconds", seconds, 0.1, 3600),
    ("workers", workers or 1, 1, 1024),
  ):
    if not least <= value <= most:
      raise UserError(f"{name} must be from {least} to {most}, not {value}.")
  atomic.restore_folder(out)
  check_out(out, force, "audio")
  builder = builder_for(table)
  report = Report(rate=rate, channels=channels, path=str(out))
  sources = _sources(folder, table, builder, report)
  if paths is not None:
    sources, report.skipped = [s for s in sources if s.path in paths], []
    if not sources:
      raise ValueError(f"none of the paths is an audio file of {folder}")
  sources = _only(sources, only)
  out.parent.mkdir(parents=True, exist_ok=True)
  with atomic.scratch(out) as scratch:
    data = _build(
      builder,
      scratch,
      lambda: record_writer.records(
        sources,
        report,
        seconds=seconds,
        workers=workers or cpus(),
        scratch=scratch,
        progress=progress,
      ),
    )
    if not report.records:
      reasons = "; ".join(f"{p}: {r}" for p, r in report.skipped[:3])
      raise UserError(
        f"{folder}: no audio file could be read ({reasons}); expected"
        f" {' '.join(files.SUFFIXES)}."
      )
    _summarise(data, report, folder, seconds)
    atomic.replace_folder(data, out)
  return report


def _build(
  builder: type[AudioFolder],
  scratch: Path,
  records: Callable[[], Iterator[dict]],
) -> Path:
  """Runs a builder inside `scratch` and returns the folder it made."""
  made = builder(data_dir=scratch / "tfds", records=records)
  made.download_and_prepare(download_dir=scratch / "downloads")
  return Path(made.data_path)


def _sources(
  folder: Path,
  table: Path | None,
  builder: type[AudioFolder],
  report: Report,
) -> list[record_writer.Source]:
  """Finds audio files with their labels, and reports unusable files."""
  if not folder.exists():
    raise UserError(f"{folder}: no such folder.")
  root = folder.parent if folder.is_file() else folder
  paths = files.find(folder)
  labels = builder.labels(folder, table, paths)
  found = {
    p: record_writer.Source(
      p, record_writer.valid_text(str(p.relative_to(root))), labels(p)
    )
    for p in paths
  }
  # Labels of another builder may be any function, which takes no notes.
  report.notes = _relative(getattr(labels, "notes", captions.Notes()), root)
  report.skipped += [
    (record_writer.valid_text(str(p.relative_to(root))), reason)
    for p, reason in _unusable(folder)
  ]
  if not found:
    others = "".join(f" ({p}: {r})" for p, r in report.skipped[:1])
    raise UserError(
      f"{folder}: no audio files{others}; expected {' '.join(files.SUFFIXES)}."
    )
  # `named` excludes captions from sidecar files, which are not in the table.
  labelled = {p for p, s in found.items() if s.label != captions.Label()}
  if table and not getattr(labels, "named", labelled):
    unread = next((f" ({w}: {r})" for w, r in report.notes.unread), "")
    raise UserError(
      f"{table}: no row names any of the {len(found)} audio files in {folder},"
      f" such as {next(iter(found)).relative_to(root)}{unread}; paths may be"
      " relative to either."
    )
  return list(found.values())


def _relative(notes: captions.Notes, root: Path) -> captions.Notes:
  """Shortens the paths in notes to names in the data set."""

  def short(note: Note) -> Note:
    where = note.where.removeprefix(f"{root}{os.sep}")
    return Note(*map(record_writer.valid_text, (where, note.what)))

  kinds = {kind: list(map(short, found)) for kind, found in vars(notes).items()}
  return captions.Notes(**kinds)


def _unusable(folder: Path) -> list[tuple[Path, str]]:
  """Finds paths that look like audio but cannot be read, with the reason."""
  found: list[tuple[Path, str]] = []
  for root, folders, names in files.walk(folder):
    # A folder named x.wav is a mistake that the user should see.
    found += [
      (root / name, "is a folder, not an audio file")
      for name in folders
      if name.lower().endswith(files.SUFFIXES)
    ]
    found += [
      (root / name, f"{suffix[1:]} is not supported; convert it to flac")
      for name in names
      if (suffix := Path(name).suffix.lower()) in formats.UNSUPPORTED
    ]
  return sorted(found)


def _only(sources: list, only: dict[str, str] | None) -> list:
  """Selects the files with the given tags."""
  kept = [
    s
    for s in sources
    if all(str(s.label.tags.get(k)) == str(v) for k, v in (only or {}).items())
  ]
  if not kept:
    raise UserError(
      f"none of the {len(sources)} audio files has the tags {only}; the first"
      f" has {sources[0].label.tags}."
    )
  return kept


def _write_shards(
  folder: Path, examples: Iterator[bytes]
) -> tuple[list[int], list[int]]:
  """Writes shards of about `_SHARD` bytes; returns their counts and sizes."""
  lengths, sizes, writer = [], [], None
  try:
    for example in examples:
      if writer is None or sizes[-1] + len(example) > _SHARD:
        if writer is not None:
          writer.close()
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
  return lengths, sizes


def _shards(folder: Path, count: int, first: int = 0) -> Iterator[Path]:
  """Yields names for shards while their total number is unknown."""
  for i in range(first, first + count):
    yield folder / f"shard-{i:05d}"


def _summarise(
  data: Path, report: Report, folder: Path, seconds: float
) -> None:
  summary = report.summary() | {
    "record_seconds": seconds,
    "source": folder.resolve().name,
    "version": mmdcodec.__version__,
    "shards": shard_files.marks(data),
  }
  (data / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
  report.write(data)
