"""Opens audio files of every kind, and decodes them or parts of them."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
import soundfile

from mmdcodec.audio import containers, levels
from mmdcodec.audio.resampling import MAX_RATE
from mmdcodec.errors import UserError
from mmdcodec.store import cached, inputs, paths

MAX_CHANNELS = 64

# Samples to decode at a time: a header may claim 2^36 that do not exist.
_READ_BLOCK = 1 << 20

# MP3 frames use bits of earlier frames, which libsndfile skips when it seeks:
# the first frames after a seek are silent or noise.
_MP3_WARM_UP = 12 * 1152


class Info(NamedTuple):
  """Length, rate and channels of an audio file."""

  samples: int
  rate: int
  channels: int

  @property
  def seconds(self) -> float:
    """Length in seconds."""
    return self.samples / self.rate


class _Sound(soundfile.SoundFile):
  """Reads on without seeking.

  soundfile seeks after every read, to where the file is anyway. MP3's decoder
  then forgets the bits of earlier frames.
  """

  def seekable(self) -> bool:
    """Keeps `read` from seeking; `seek` works as before."""
    return False


class AudioFile:
  """An open audio file: one stream, or several that follow each other.

  Attributes:
    name: its name in messages.
    info: its length, rate and channels.
  """

  def __init__(self, parts: list[bytes | IO[bytes]], name: str) -> None:
    """Opens the parts of a file.

    Args:
      parts: paths or streams from `containers.contents`.
      name: name of the file in messages.

    Raises:
      UserError: a part is damaged, or they differ in rate or channels.
    """
    self.name, self._parts = name, parts
    self._closing = contextlib.ExitStack()
    self._index, self._position = 0, 0
    lengths, kinds = [], set()
    # Backwards, so that the first part is open in the end.
    for index in reversed(range(len(parts))):
      self._open(index)
      lengths.insert(0, self._sound.frames)
      kinds.add((self._sound.samplerate, self._sound.channels))
    if len(kinds) > 1:
      words = " and ".join(
        f"{r} Hz with {c} channels" for r, c in sorted(kinds)
      )
      raise UserError(
        f"{name}: holds streams of {words} one after the other; split it into"
        " its streams."
      )
    # The first sample of each part, and the end of the last.
    self._starts = [0, *itertools.accumulate(lengths)]
    self.info = Info(self._starts[-1], *kinds.pop())

  def close(self) -> None:
    """Closes the decoder."""
    self._closing.close()

  def read(self, begin: int, count: int) -> np.ndarray:
    """Decodes part of the file.

    Args:
      begin: first sample.
      count: number of samples, within the length of the file.

    Returns:
      float32 `[count, channels]`; a few samples fewer at the end of some MP3s.

    Raises:
      UserError: the file is truncated or damaged, or holds samples that are not
        audio; see `levels.check`.
    """
    blocks, end = [], begin + count
    for index, first in enumerate(self._starts[:-1]):
      last = self._starts[index + 1]
      if first < end and last > begin:
        begin_here = max(begin, first) - first
        blocks += self._decode(index, begin_here, min(end, last) - first)
    x = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    levels.check(x, self.name)
    return x

  def _decode(self, index: int, begin: int, end: int) -> list[np.ndarray]:
    """Decodes samples of a part, in blocks."""
    blocks: list[np.ndarray] = []
    try:
      while begin < end:
        want = min(end - begin, _READ_BLOCK)
        block = self._take(index, begin, want)
        blocks.append(block)
        begin += len(block)
        if len(block) < want:
          break
    except (soundfile.SoundFileError, RuntimeError) as error:
      raise UserError(
        f"{self.name}: is truncated or damaged ({reason_of(error)}); get a"
        " whole copy."
      ) from error
    mp3 = self._sound.format == "MP3"
    if end - begin > (containers.MP3_SLACK if mp3 else 0):
      raise UserError(
        f"{self.name}: is truncated: {self._starts[index] + begin} of"
        f" {self.info.samples} samples are there; get a whole copy."
      )
    return blocks

  def _take(self, index: int, begin: int, count: int) -> np.ndarray:
    """Decodes up to `count` samples of a part from `begin` on, in one block."""
    can_seek = soundfile.SoundFile.seekable(self._sound)
    if index != self._index or (begin < self._position and not can_seek):
      self._open(index)
    skipped = 0
    if begin != self._position and can_seek:
      mp3 = self._sound.format == "MP3"
      skipped = min(begin, _MP3_WARM_UP) if mp3 else 0
      self._sound.seek(begin - skipped)
    elif begin > self._position:
      skipped = begin - self._position
    while skipped > _READ_BLOCK:
      skipped -= len(self._sound.read(_READ_BLOCK)) or skipped
    x = self._sound.read(skipped + count, dtype="float32", always_2d=True)
    x = x[skipped:]
    self._position = begin + len(x)
    return x

  def _open(self, index: int) -> None:
    """Opens a part in place of the one that is open."""
    source = self._parts[index]
    try:
      if not isinstance(source, bytes):
        source.seek(0)
      self._closing.close()
      sound = self._closing.enter_context(_Sound(source))
    except (soundfile.SoundFileError, ValueError, TypeError) as error:
      raise UserError(
        f"{self.name}: is damaged, or of an unknown coding"
        f" ({reason_of(error)}); get a whole copy, or convert it to FLAC."
      ) from error
    problem = None
    if not 1 <= sound.channels <= MAX_CHANNELS:
      problem = f"claims {sound.channels} channels"
    elif not 1 <= sound.samplerate <= MAX_RATE:
      problem = f"claims a rate of {sound.samplerate} Hz"
    elif sound.frames < 1:
      problem = "holds no samples"
    if problem:
      raise UserError(f"{self.name}: {problem}; the file is damaged or empty.")
    self._sound, self._index, self._position = sound, index, 0


@contextlib.contextmanager
def opened(path: str | os.PathLike | IO[bytes]) -> Iterator[AudioFile]:
  """Opens a file for reading after checking that all of it is there.

  Args:
    path: a path or a seekable binary file object.

  Raises:
    UserError: the file is missing, empty, truncated or not audio.
  """
  with contextlib.ExitStack() as stack:
    yield _open(path, stack)


def _open(
  path: str | os.PathLike | IO[bytes], stack: contextlib.ExitStack
) -> AudioFile:
  name = name_of(path)
  parts: list[bytes | IO[bytes]]
  if isinstance(path, str | os.PathLike):
    if isinstance(source := paths.of(path), paths.Url):
      inputs.check(source)
      path = cached.local(source)
    stream = stack.enter_context(inputs.open_file(path))
    try:
      parts = [*containers.contents(stream, name)]
    except OSError as error:
      raise UserError(f"{name}: cannot be read ({error.strerror}).") from error
    # libsndfile reads a path faster. Bytes allow names that are not UTF-8.
    if parts == [stream]:
      parts = [os.fsencode(path)]
  else:
    parts = [*containers.contents(path, name)]
  file = AudioFile(parts, name)
  stack.callback(file.close)
  return file


def name_of(path: str | os.PathLike | IO[bytes]) -> str:
  """Name of a path or file object in messages."""
  if isinstance(path, str | os.PathLike):
    return str(path)
  name = getattr(path, "name", None)
  return name if isinstance(name, str) else "audio data"


def reason_of(error: Exception) -> str:
  """The reason that libsndfile gives, without the path and the final period."""
  return str(error).rpartition(": ")[2].rstrip(". ")
