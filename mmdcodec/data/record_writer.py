"""Converts audio files to FLAC records, several at a time, in order.

A worker thread decodes, cuts and encodes one file into a scratch file; its
records are passed on only after the file has been read to its end. So a damaged
file contributes nothing, the order does not depend on the number of workers,
and no file is held in memory. Decoding, resampling and encoding release the
interpreter lock, so threads suffice.
"""

import collections
import concurrent.futures
import io
import json
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile
import tensorflow_datasets as tfds

from mmdcodec import formatting
from mmdcodec.data import captions, file_pieces
from mmdcodec.data.report import Report
from mmdcodec.data.tables import Note
from mmdcodec.progress import ProgressLine

# Waiting records are kept in memory up to this size, and beyond it on disk.
_IN_MEMORY = 32 << 20

# Files in progress or waiting per worker: enough that one long file does not
# leave the others idle.
_AHEAD = 4

# The largest difference between samples of 16 bits in silence with the dither
# of a recording, 70 dB below full scale.
_SILENT = 20


@dataclass(frozen=True)
class Source:
  """An audio file, its name in the data set, its label, and its bytes."""

  path: Path
  name: str
  label: captions.Label = captions.Label()
  size: int = 0


def features() -> tfds.features.FeaturesDict:
  """Describes a record to TFDS."""
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


def records(
  sources: Sequence[Source],
  report: Report,
  *,
  seconds: float,
  workers: int,
  scratch: Path,
  progress: bool,
) -> Generator[Iterator[dict], None, None]:
  """Yields the records of each file, in order, and fills in the report.

  The records of a file are to be taken before those of the next one.

  Args:
    sources: the files.
    report: has the rate and channels of the records; receives the counts and
      skipped files.
    seconds: length of a record; see `file_pieces.pieces`.
    workers: files in progress at a time.
    scratch: folder for data that does not fit into memory.
    progress: whether to show a progress line on stderr.

  Yields:
    dicts with the `features` of a record; none for a file that is skipped.
  """
  stop = threading.Event()
  meter = _Meter(sources, report, progress)
  memory = max(1, _IN_MEMORY // (_AHEAD * workers))

  def spool() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(memory, dir=str(scratch))

  def job(source: Source) -> _Encoded:
    return _encode(
      source.path, report.rate, report.channels, seconds, spool, stop
    )

  pool = concurrent.futures.ThreadPoolExecutor(workers, "prepare")
  try:
    queue, rest = collections.deque(), iter(sources)
    while True:
      while len(queue) < _AHEAD * workers and (source := next(rest, None)):
        queue.append((source, pool.submit(job, source)))
      if not queue:
        break
      source, future = queue.popleft()
      while not future.done():
        concurrent.futures.wait([future], timeout=1.0)
        meter.show()
      with future.result() as encoded:
        if encoded.reason:
          report.skipped.append((source.name, encoded.reason))
          yield iter(())
        else:
          report.files += 1
          report.captioned += bool(source.label.caption)
          yield _records(source, encoded, report)
      meter.done(source)
  finally:
    stop.set()
    pool.shutdown(cancel_futures=True)
    meter.close()


def flac(x: np.ndarray, rate: int) -> bytes:
  """Encodes int16 audio `[samples, channels]` as a FLAC file."""
  stream = io.BytesIO()
  soundfile.write(stream, x, rate, format="FLAC", subtype="PCM_16")
  return stream.getvalue()


def is_silent(x: np.ndarray) -> bool:
  """Whether nothing is heard in int16 audio [samples, channels].

  A constant offset is not heard either.
  """
  # As int32, because the difference may not fit into 16 bits.
  heights = x.max(axis=0) - x.min(axis=0).astype(np.int32)
  return bool((heights <= _SILENT).all())


def valid_text(words: str) -> str:
  """Replaces characters that are not valid in UTF-8.

  File names in old music collections may not be UTF-8.
  """
  return words.encode("utf-8", "replace").decode()


class _Encoded:
  """The FLAC pieces of a file, or the reason for having none."""

  def __init__(self, spool: IO[bytes]):
    self.reason = ""
    self.pieces: list[tuple[int, int, bool]] = []  # bytes, samples, silent
    self.notes: list[str] = []
    self.spool = spool

  def __enter__(self) -> "_Encoded":
    return self

  def __exit__(self, *_: Any) -> None:
    self.spool.close()


def _encode(
  path: Path,
  rate: int,
  channels: int,
  seconds: float,
  spool: Callable,
  stop: threading.Event,
) -> _Encoded:
  encoded = _Encoded(spool())
  pieces = file_pieces.pieces(
    path, rate=rate, channels=channels, seconds=seconds, notes=encoded.notes
  )
  while not stop.is_set():
    # Only errors from reading the file skip it; a full disk, for example, must
    # end the run.
    try:
      x = next(pieces, None)
    except file_pieces.Damaged as error:
      encoded.reason = str(error)
      break
    except Exception as error:  # a bad file must not end the run
      encoded.reason = f"{type(error).__name__}: {error}"
      break
    if x is None:
      break
    data = flac(x, rate)
    encoded.spool.write(data)
    encoded.pieces.append((len(data), len(x), is_silent(x)))
  return encoded


def _records(
  source: Source, encoded: _Encoded, report: Report
) -> Iterator[dict]:
  encoded.spool.seek(0)
  position = 0
  caption = valid_text(source.label.caption)
  tags = valid_text(
    json.dumps(
      source.label.tags, ensure_ascii=False, sort_keys=True, default=str
    )
  )
  report.levels += [Note(source.name, words) for words in encoded.notes]
  for size, samples, silent in encoded.pieces:
    if silent:
      begin, end = position / report.rate, (position + samples) / report.rate
      report.silent.append(Note(source.name, f"{begin:.1f} s to {end:.1f} s"))
    yield {
      "audio": encoded.spool.read(size),
      "rate": report.rate,
      "channels": report.channels,
      "samples": samples,
      "path": source.name,
      "position": position / report.rate,
      "caption": caption,
      "tags": tags,
    }
    position += samples
    report.records += 1
    report.seconds += samples / report.rate


class _Meter:
  """The progress line: files, hours of audio, speed, time left."""

  def __init__(self, sources: Sequence[Source], report: Report, enabled: bool):
    self._enabled = enabled
    self._report = report
    self._total = max(1, sum(source.size for source in sources))
    self._bytes, self._files, self._count = 0, 0, len(sources)
    self._line = ProgressLine()

  def done(self, source: Source) -> None:
    self._files += 1
    self._bytes += source.size
    self.show()

  def show(self) -> None:
    if self._enabled and self._line.due():
      self._line.show(self._words())

  def close(self) -> None:
    # Shown even after short work, for the totals.
    if self._enabled:
      self._line.show(self._words(), last=True)

  def _words(self) -> str:
    spent = self._line.spent
    rest = self._total - self._bytes
    left = spent * rest / self._bytes if self._bytes else 0
    return (
      f"{self._files}/{self._count} files,"
      f" {self._report.seconds / 3600:.2f} h of audio,"
      f" {self._report.seconds / spent:.0f} x real time,"
      f" {len(self._report.skipped)} skipped, {formatting.duration(left)} left"
    )
