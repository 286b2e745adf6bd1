"""Audio files block by block: any length in constant memory.

The blocks of `read` joined are what `mmdcodec.audio.files.read` gives for the
whole file, and the file of `Writer` is what `files.write` makes of them.
"""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from mmdcodec.audio import files
from mmdcodec.errors import UserError
from mmdcodec.store import atomic

# Samples of the file at a time.
_BLOCK = 1 << 18
# Libsndfile's Vorbis and Opus writers overflow the stack on long buffers.
_WRITE_BLOCK = 1 << 14


@contextlib.contextmanager
def read(
  path: str | os.PathLike | BinaryIO, *, rate: int, channels: int
) -> Iterator[tuple[files.Info, Iterator[np.ndarray]]]:
  """Reads a file at the rate and channels asked for.

  Args:
    path: a path or a seekable binary file object.
    rate: Hz of the blocks.
    channels: of the blocks; see `files.mix`.

  Yields:
    What the header says of the file, and an iterator of blocks, float32
    [samples, channels].

  Raises:
    UserError: as `files.read`; also while the blocks are taken.
  """
  with files.opened(path) as sound:
    info = files.Info(sound.frames, sound.samplerate, sound.channels)
    yield info, _blocks(sound, info, rate, channels, files.name_of(path))


def _blocks(sound, info, rate: int, channels: int, name: str):
  left = files.resampled_length(info.samples, rate=info.rate, to=rate)
  resampler = None
  if rate != info.rate:
    resampler = soxr.ResampleStream(
      info.rate, rate, channels, dtype="float32", quality="HQ"
    )
  held = np.zeros((1, channels), np.float32)
  for begin in range(0, info.samples, _BLOCK):
    count = min(_BLOCK, info.samples - begin)
    x = files.decoded(sound, begin, count, name)
    if not np.isfinite(x).all():
      raise UserError(
        f"{name}: holds NaN or infinite samples; export it again as finite"
        " audio."
      )
    last = begin + count == info.samples
    x = files.mix(x, channels)
    if resampler:
      x = resampler.resample_chunk(np.ascontiguousarray(x), last=last)
    x = x[:left]
    if last and left and resampler:
      x = files.fit(x if len(x) else held, left)
    left -= len(x)
    if len(x):
      held = x[-1:].copy()
      yield x


class Writer:
  """Writes audio as it comes; see `create`.

  Attributes:
    rate: of the file, in Hz: some formats know few rates.
    samples: given so far, at the rate they were given at.
  """

  def __init__(self, sound, rate: int, coding: str, name):
    """Takes an open file.

    Args:
      sound: a `soundfile.SoundFile`, open for writing.
      rate: Hz of what will be given.
      coding: libsndfile's name of it.
      name: of the file, for messages.
    """
    self.rate, self.samples = sound.samplerate, 0
    self._sound, self._coding, self._name = sound, coding, name
    self._given, self._written, self._resampler = rate, 0, None
    if rate != self.rate:
      self._resampler = soxr.ResampleStream(
        rate, self.rate, sound.channels, dtype="float32", quality="HQ"
      )

  def write(self, x: np.ndarray) -> None:
    """Adds audio.

    Args:
      x: [samples, channels], full scale +-1. Integer formats clip.

    Raises:
      UserError: it holds NaN or infinity.
    """
    x = np.ascontiguousarray(x, np.float32)
    if not np.isfinite(x).all():
      raise UserError(
        f"{self._name}: the audio to write holds NaN or infinity."
      )
    self.samples += len(x)
    if self._resampler:
      x = self._resampler.resample_chunk(x)
    self._put(x)

  def finish(self) -> None:
    """Writes what the resampler still holds."""
    if not self._resampler:
      return
    empty = np.zeros((0, self._sound.channels), np.float32)
    x = self._resampler.resample_chunk(empty, last=True)
    total = files.resampled_length(self.samples, rate=self._given, to=self.rate)
    left = total - self._written
    if left > 0:
      self._put(files.fit(x if len(x) else np.zeros((1, x.shape[1])), left))

  def _put(self, x: np.ndarray) -> None:
    if self._coding not in ("FLOAT", "DOUBLE"):
      x = np.clip(x, -1.0, 1.0)
    for i in range(0, len(x), _WRITE_BLOCK):
      self._sound.write(x[i : i + _WRITE_BLOCK])
    self._written += len(x)


@contextlib.contextmanager
def create(
  path: str | os.PathLike, *, rate: int, channels: int, to: int | None = None
) -> Iterator[Writer]:
  """Begins an audio file, in the format that the path's suffix names.

  It is put in place when the block ends well; a failure leaves what was there.

  Args:
    path: where to; its folder must exist.
    rate: Hz of what will be written to it.
    channels: of it.
    to: Hz wanted of the file; as it is given by default.

  Raises:
    UserError: unknown suffix, folder missing, or rate or channels that the
      format cannot hold.
  """
  path = Path(path)
  container, coding, to = files.written_as(path, rate=to or rate)
  with contextlib.ExitStack() as stack:
    try:
      partial = stack.enter_context(atomic.file(path))
    except OSError as error:
      raise UserError(
        f"{path}: cannot be written ({error.strerror})."
      ) from error
    try:
      with _sound(partial, to, channels, coding, container, path) as sound:
        writer = Writer(sound, rate, coding, path)
        yield writer
        writer.finish()
    except soundfile.LibsndfileError as error:
      raise UserError(f"{path}: cannot be written ({error}).") from error


def _sound(partial, rate, channels, coding, container, path):
  """Opens a file that is written aside."""
  try:
    return soundfile.SoundFile(
      os.fsencode(partial), "w", rate, channels, coding, format=container
    )
  except (soundfile.LibsndfileError, ValueError) as error:
    raise UserError(
      f"{path}: cannot be written as {coding} at {rate} Hz with {channels}"
      f" channels ({error})."
    ) from error


class _Stdin(io.BufferedRandom):
  """A file whose name in messages is not a number."""

  name = "stdin"


@contextlib.contextmanager
def spooled(stream: BinaryIO) -> Iterator[BinaryIO]:
  """A copy of a pipe on disk, for what must be sought in; named `stdin`."""
  with _Stdin(tempfile.TemporaryFile(buffering=0)) as file:
    shutil.copyfileobj(stream, file)
    file.seek(0)
    yield file
