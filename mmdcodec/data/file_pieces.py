"""Cuts an audio file of any length into pieces, in constant memory.

The file is decoded, mixed, resampled and cut block by block, so memory does not
depend on its length.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from mmdcodec.audio import files, truncation
from mmdcodec.audio.decoding import reason_of
from mmdcodec.errors import UserError

# Samples (of all channels) decoded at a time.
BLOCK = 1 << 17

# A lower rate in a header is an error, not a low-quality recording.
MIN_RATE = 1000

# Floating-point files may exceed full scale, but one that exceeds it by 18 dB
# contains 16-bit integers as floats, or garbage.
MAX_PEAK = 8.0


class Damaged(Exception):
  """A file that cannot be used; the message is the reason."""


def pieces(
  path: Path, *, rate: int, channels: int, seconds: float
) -> Iterator[np.ndarray]:
  """Yields the consecutive pieces of a file.

  Every piece has `seconds`, except the last, which includes the rest and has
  0.5 to 1.5 times `seconds` (less only if the file is shorter). Samples beyond
  full scale are clipped, as in any 16-bit file.

  Args:
    path: an audio file.
    rate: sample rate of the pieces in Hz.
    channels: channels of the pieces; see `files.mix`.
    seconds: length of a piece.

  Yields:
    int16 `[samples, channels]`.

  Raises:
    Damaged: the file cannot be read to its end, or has no usable audio.
  """
  size = max(1, round(seconds * rate))
  waiting, count = [], 0
  for x in _stream(path, rate, channels):
    waiting.append(x)
    count += len(x)
    if 2 * count >= 3 * size:
      joined = np.concatenate(waiting)
      while 2 * len(joined) >= 3 * size:
        yield joined[:size]
        joined = joined[size:]
      waiting, count = [joined], len(joined)
  if not count:
    raise Damaged("holds no samples")
  yield np.concatenate(waiting)


def _stream(path: Path, rate: int, channels: int) -> Iterator[np.ndarray]:
  """Yields blocks of a file as int16 at the target rate and channels."""
  for block in _resampled(path, rate, channels):
    # This inverts libsndfile's int16 -> float32, so 16-bit files stay exact.
    yield np.clip(np.rint(block * 32768), -32768, 32767).astype(np.int16)


def _resampled(path: Path, rate: int, channels: int) -> Iterator[np.ndarray]:
  """Yields blocks of a file as float32 at the target rate and channels."""
  resampler = None
  for x, source in _decoded(path):
    if source == rate:
      yield files.mix(x, channels)
      continue
    # Mixes down before resampling, so that fewer channels are resampled.
    x = files.mix(x, min(channels, x.shape[1]))
    if resampler is None:
      resampler = soxr.ResampleStream(
        source, rate, x.shape[1], dtype="float32", quality="HQ"
      )
    width = x.shape[1]
    yield files.mix(resampler.resample_chunk(x), channels)
  if resampler is not None:
    rest = np.zeros((0, width), np.float32)
    rest = resampler.resample_chunk(rest, last=True)
    yield files.mix(rest.reshape(-1, width), channels)


def _decoded(path: Path) -> Iterator[tuple[np.ndarray, int]]:
  """Yields (block, rate) of a file unconverted, and checks everything."""
  with contextlib.ExitStack() as stack:
    sound = _open(path, stack)
    rate, total, read = sound.samplerate, sound.frames, 0
    frames = max(1, BLOCK // sound.channels)
    while True:
      try:
        x = sound.read(frames, dtype="float32", always_2d=True)
      except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise Damaged(
          f"truncated or damaged after {read / rate:.1f} s ({reason_of(error)})"
        ) from error
      if not len(x):
        break
      if not np.isfinite(x).all():
        raise Damaged(f"holds NaN or infinity after {read / rate:.1f} s")
      peak = max(x.max(), -x.min())
      if peak > MAX_PEAK:
        raise Damaged(f"samples reach {peak:.3g}, expected at most 1")
      read += len(x)
      yield x, rate
    slack = truncation.MP3_SLACK if sound.format == "MP3" else 0
    if read < total - slack:
      raise Damaged(
        f"truncated: {read / rate:.1f} s of {total / rate:.1f} s are there"
      )


def _open(path: Path, stack: contextlib.ExitStack) -> soundfile.SoundFile:
  """Opens a file after checking its header."""
  # Opening a named pipe would block forever.
  if path.is_dir():
    raise Damaged("is a folder, not an audio file")
  if not path.is_file():
    raise Damaged("is a broken link" if path.is_symlink() else "is not a file")
  try:
    sound = stack.enter_context(files.opened(path))
  except UserError as error:
    # The list of skipped files already names the path.
    reason = str(error).removeprefix(f"{path}: ").rstrip(".")
    raise Damaged(reason) from error
  except (soundfile.SoundFileError, RuntimeError, OSError) as error:
    raise Damaged(f"cannot be opened ({reason_of(error)})") from error
  if sound.samplerate < MIN_RATE:
    raise Damaged(f"claims a rate of {sound.samplerate} Hz")
  return sound
