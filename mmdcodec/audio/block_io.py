"""Reads and writes audio files block by block, in constant memory.

The joined blocks of `read` equal `mmdcodec.audio.files.read` of the whole file,
and a `Writer` writes the same file as `files.write` given all audio at once.
"""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile
import soxr

from mmdcodec.audio import formats, levels
from mmdcodec.audio.decoding import AudioFile, Info, opened, reason_of
from mmdcodec.audio.resampling import fit_resampled, mix, resampled_length
from mmdcodec.errors import UserError
from mmdcodec.store import atomic, disk, paths

# Samples (of all channels) read at a time.
_BLOCK = 1 << 18
# Libsndfile's Vorbis and Opus writers overflow the stack on long buffers.
_WRITE_BLOCK = 1 << 14


@contextlib.contextmanager
def read(
  path: str | os.PathLike | IO[bytes], *, rate: int, channels: int
) -> Iterator[tuple[Info, "Blocks"]]:
  """Reads a file at a given rate and number of channels.

  Args:
    path: a path or a seekable binary file object.
    rate: sample rate of the blocks in Hz.
    channels: number of channels of the blocks; see `resampling.mix`.

  Yields:
    `Info` of the file, and an iterator of blocks, float32 [samples, channels].

  Raises:
    UserError: as in `files.read`; also while reading the blocks.
  """
  with opened(path) as file:
    yield file.info, Blocks(file, rate, channels)


class Blocks:
  """The blocks of an open file.

  Attributes:
    name: name of the file in messages.
    levels: measures of the samples read so far.
  """

  def __init__(self, file: AudioFile, rate: int, channels: int) -> None:
    """Prepares to read.

    Args:
      file: an open file.
      rate: sample rate of the blocks in Hz.
      channels: number of channels of the blocks.
    """
    self.name, self.levels = file.name, levels.Levels()
    self._blocks = self._read(file, rate, channels)

  def __iter__(self) -> Iterator[np.ndarray]:
    """Yields blocks, float32 [samples, channels]."""
    return self._blocks

  def __next__(self) -> np.ndarray:
    """Returns the next block."""
    return next(self._blocks)

  def _read(
    self, file: AudioFile, rate: int, channels: int
  ) -> Iterator[np.ndarray]:
    info = file.info
    left = resampled_length(info.samples, rate=info.rate, to=rate)
    # Mixes down before resampling, and up after it: fewer channels to resample.
    width = min(channels, info.channels)
    resampler = None
    if rate != info.rate:
      resampler = soxr.ResampleStream(
        info.rate, rate, width, dtype="float32", quality="HQ"
      )
    size = max(1, _BLOCK // info.channels)
    tail = np.zeros((1, width), np.float32)
    for begin in range(0, info.samples, size):
      count = min(size, info.samples - begin)
      source = file.read(begin, count)
      x = mix(source, width)
      self.levels.add(source, x)
      tail = x[-1:] if len(x) else tail
      last = begin + count == info.samples
      if resampler:
        x = resampler.resample_chunk(np.ascontiguousarray(x), last=last)
      x = x[:left]
      if last and left and resampler:
        x = fit_resampled(x, tail, left)
      left -= len(x)
      if len(x):
        yield mix(x, channels)


def check_finite(x: np.ndarray, name: str | os.PathLike) -> None:
  """Raises a UserError if audio to be written holds NaN or infinity."""
  if not np.isfinite(x).all():
    raise UserError(f"{name}: the audio to write holds NaN or infinity.")


class Writer:
  """Writes audio to a file block by block; see `create`.

  Attributes:
    rate: sample rate of the file in Hz; some formats support few rates.
    samples: number of samples received, at the rate of the input.
  """

  def __init__(
    self,
    sound: soundfile.SoundFile,
    rate: int,
    coding: str,
    name: str | os.PathLike,
  ) -> None:
    """Wraps an open file.

    Args:
      sound: file open for writing.
      rate: sample rate of the audio to write, in Hz.
      coding: libsndfile's name of the file's coding.
      name: name of the file in messages.
    """
    self.rate, self.samples = sound.samplerate, 0
    self._sound, self._coding, self._name = sound, coding, name
    self._input_rate, self._written, self._resampler = rate, 0, None
    self._tail = np.zeros((1, sound.channels), np.float32)
    self._levels = levels.Levels()
    if rate != self.rate:
      self._resampler = soxr.ResampleStream(
        rate, self.rate, sound.channels, dtype="float32", quality="HQ"
      )

  def write(self, x: np.ndarray) -> None:
    """Appends audio.

    Args:
      x: [samples, channels], full scale +-1. Integer formats clip.

    Raises:
      UserError: the audio holds NaN or infinity.
    """
    x = np.ascontiguousarray(x, np.float32)
    check_finite(x, self._name)
    self.samples += len(x)
    self._tail = x[-1:].copy() if len(x) else self._tail
    if self._resampler:
      x = self._resampler.resample_chunk(x)
    self._put(x)

  def finish(self) -> None:
    """Flushes the resampler, and warns if samples were clipped."""
    if self._resampler:
      self._flush(self._resampler)
    self._levels.tell(str(self._name), clipped=True)

  def _flush(self, resampler: soxr.ResampleStream) -> None:
    empty = np.zeros((0, self._sound.channels), np.float32)
    x = resampler.resample_chunk(empty, last=True)
    total = resampled_length(self.samples, rate=self._input_rate, to=self.rate)
    left = total - self._written
    if left > 0:
      self._put(fit_resampled(x, self._tail, left))

  def _put(self, x: np.ndarray) -> None:
    if self._coding not in ("FLOAT", "DOUBLE"):
      self._levels.add(x)
      x = np.clip(x, -1.0, 1.0)
    for i in range(0, len(x), _WRITE_BLOCK):
      self._sound.write(x[i : i + _WRITE_BLOCK])
    self._written += len(x)


@contextlib.contextmanager
def create(
  path: str | os.PathLike,
  *,
  rate: int,
  channels: int,
  to: int | None = None,
  subtype: str | None = None,
  name: str | None = None,
) -> Iterator[Writer]:
  """Creates an audio file in the format given by the path's suffix.

  The file replaces an existing one when the `with` block ends without an error;
  after a failure, the old file is unchanged.

  Args:
    path: path of the file; its folder must exist.
    rate: sample rate of the audio to write, in Hz.
    channels: number of channels.
    to: preferred rate of the file in Hz; None means `rate`.
    subtype: libsndfile's name of the coding; None means the suffix's default.
    name: name of the file in notices; None means its path.

  Raises:
    UserError: unknown suffix, folder missing, or rate or channels that the
      format cannot hold.
  """
  path = paths.of(path)
  container, coding, to = formats.encoding_of(
    path, rate=to or rate, subtype=subtype
  )
  with contextlib.ExitStack() as stack:
    try:
      partial = stack.enter_context(atomic.file(path))
    except OSError as error:
      raise UserError(
        f"{path}: cannot be written ({error.strerror})."
      ) from error
    out = stack.enter_context(_Output(io.FileIO(partial, "r+")))
    try:
      with _sound(out, to, channels, coding, container, path) as sound:
        writer = Writer(sound, rate, coding, name or path)
        yield writer
        writer.finish()
    except Exception as error:
      # soundfile raises several kinds after an error of the file.
      if out.error is None:
        if isinstance(error, soundfile.LibsndfileError):
          raise UserError(f"{path}: cannot be written ({error}).") from error
        raise
    out.close()
    if out.error is not None:
      raise UserError(
        f"{path}: cannot be written ({out.error.strerror})."
      ) from out.error


class _Output(io.BufferedRandom):
  """A file that remembers why it could not be written.

  Libsndfile does not know, and some of its coders do not even notice.
  """

  error: OSError | None = None

  def write(self, data: Any) -> int:
    """Writes; returns 0 after an error."""
    return self._try(super().write, data)

  def seek(self, *to: int) -> int:
    """Seeks; returns 0 after an error."""
    return self._try(super().seek, *to)

  def close(self) -> None:
    """Closes the file."""
    self._try(super().close)

  def _try(self, call: Callable[..., Any], *args: Any) -> Any:
    try:
      return call(*args)
    except OSError as error:
      self.error = self.error or error
      return 0


def _sound(
  out: _Output,
  rate: int,
  channels: int,
  coding: str,
  container: str,
  path: Path,
) -> soundfile.SoundFile:
  """Opens a file for writing."""
  try:
    return soundfile.SoundFile(
      out, "w", rate, channels, coding, format=container
    )
  except (soundfile.LibsndfileError, ValueError) as error:
    raise UserError(
      f"{path}: cannot be written as {coding} at {rate} Hz with {channels}"
      f" channels ({reason_of(error)})."
    ) from error


class _Stdin(io.BufferedRandom):
  """A temporary file that messages call stdin."""

  name = "stdin"


@contextlib.contextmanager
def spooled(stream: IO[bytes]) -> Iterator[IO[bytes]]:
  """Copies a pipe to a seekable temporary file, named `stdin` in messages."""
  with _Stdin(tempfile.TemporaryFile(buffering=0)) as file:
    with disk.named(tempfile.gettempdir()):
      shutil.copyfileobj(stream, file)
      file.seek(0)
    yield file
