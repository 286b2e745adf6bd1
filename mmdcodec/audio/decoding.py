"""Opens audio files, with all checks that need no decoding, and decodes them.

libsndfile reads a file whose end is missing as if it were merely shorter, and
training on a broken download is worse than an error. So `opened` compares the
length given by the container with the file.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import soundfile

from mmdcodec.audio import truncation
from mmdcodec.audio.formats import SUFFIXES
from mmdcodec.audio.resampling import MAX_RATE
from mmdcodec.errors import UserError
from mmdcodec.store import inputs

MAX_CHANNELS = 64

# Samples to decode at a time: a header may claim 2^36 that do not exist.
_READ_BLOCK = 1 << 20

# MP3 frames use bits of earlier frames, which libsndfile skips when it seeks:
# the first frames after a seek are silent or noise.
_MP3_WARM_UP = 12 * 1152


class Info(NamedTuple):
  """Length, rate and channels of an audio file, from its header."""

  samples: int
  rate: int
  channels: int

  @classmethod
  def of(cls, sound: soundfile.SoundFile) -> "Info":
    """Returns the info of an open file."""
    return cls(sound.frames, sound.samplerate, sound.channels)

  @property
  def seconds(self) -> float:
    """Length in seconds."""
    return self.samples / self.rate


@contextlib.contextmanager
def opened(
  path: str | os.PathLike | IO[bytes],
) -> Iterator[soundfile.SoundFile]:
  """Opens a file for reading after checking its header.

  Args:
    path: a path or a seekable binary file object.

  Raises:
    UserError: the file is missing, empty, truncated or not audio.
  """
  with contextlib.ExitStack() as stack:
    yield _open(path, stack)


def _open(
  path: str | os.PathLike | IO[bytes], stack: contextlib.ExitStack
) -> soundfile.SoundFile:
  name = name_of(path)
  source: bytes | IO[bytes]
  if isinstance(path, str | os.PathLike):
    path = Path(path)
    stream = stack.enter_context(inputs.open_file(path))
    try:
      checked = truncation.check(stream, name)
    except OSError as error:
      raise UserError(f"{name}: cannot be read ({error}).") from error
    # libsndfile reads a path faster. Bytes allow names that are not UTF-8.
    source = os.fsencode(path) if checked is stream else checked
  else:
    source = truncation.check(path, name)
  try:
    # soundfile treats every path that ends in .raw as headerless audio.
    if isinstance(source, bytes) and source.lower().endswith(b".raw"):
      raise ValueError("raw samples have no header")
    sound = stack.enter_context(soundfile.SoundFile(source))
  except (soundfile.SoundFileError, ValueError, TypeError) as error:
    raise UserError(
      f"{name}: is not audio in a known format ({reason_of(error)}); expected"
      f" one of {' '.join(SUFFIXES)}."
    ) from error
  problem = None
  if not 1 <= sound.channels <= MAX_CHANNELS:
    problem = f"claims {sound.channels} channels"
  elif not 1 <= sound.samplerate <= MAX_RATE:
    problem = f"claims a rate of {sound.samplerate} Hz"
  elif sound.frames < 1:
    problem = "holds no samples"
  if problem:
    raise UserError(f"{name}: {problem}; the file is damaged or empty.")
  return sound


def decode(
  sound: soundfile.SoundFile, begin: int, count: int, name: str
) -> np.ndarray:
  """Decodes part of an open file.

  Args:
    sound: file from `opened`.
    begin: first sample.
    count: number of samples, within the length in the header.
    name: name of the file in messages.

  Returns:
    float32 `[count, channels]`; a few samples fewer at the end of some MP3s.

  Raises:
    UserError: the file is truncated or damaged, or holds NaN or infinite
      samples.
  """
  blocks, left = [], count
  try:
    while left > 0:
      want = min(left, _READ_BLOCK)
      warm_up = min(begin, _MP3_WARM_UP) if sound.format == "MP3" else 0
      if sound.tell() != begin - warm_up:
        sound.seek(begin - warm_up)
      # One call for both: soundfile seeks at the end of every read.
      block = sound.read(warm_up + want, dtype="float32", always_2d=True)
      blocks.append(block[warm_up:])
      begin += want
      left -= len(blocks[-1])
      if len(blocks[-1]) < want:
        break
  except (soundfile.SoundFileError, RuntimeError) as error:
    raise UserError(
      f"{name}: is truncated or damaged ({reason_of(error)}); get a whole copy."
    ) from error
  if left > (truncation.MP3_SLACK if sound.format == "MP3" else 0):
    raise UserError(
      f"{name}: is truncated: {left} of {count} samples are missing; get a"
      " whole copy."
    )
  x = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
  if not np.isfinite(x).all():
    raise UserError(
      f"{name}: holds NaN or infinite samples; export it again as finite audio."
    )
  return x


def name_of(path: str | os.PathLike | IO[bytes]) -> str:
  """Name of a path or file object in messages."""
  if isinstance(path, str | os.PathLike):
    return str(path)
  name = getattr(path, "name", None)
  return name if isinstance(name, str) else "audio data"


def reason_of(error: Exception) -> str:
  """The reason that libsndfile gives, without the path and the final period."""
  return str(error).rpartition(": ")[2].rstrip(". ")
