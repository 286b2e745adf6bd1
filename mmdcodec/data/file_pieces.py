"""Cuts an audio file of any length into pieces, in constant memory.

The file is decoded, mixed, resampled and cut block by block, so memory does not
depend on its length.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmdcodec.audio import block_io
from mmdcodec.data.tables import reason_of
from mmdcodec.errors import UserError

# A lower rate in a header is an error, not a low-quality recording.
MIN_RATE = 1000


class Damaged(Exception):
  """A file that cannot be used; the message is the reason."""


def pieces(
  path: Path,
  *,
  rate: int,
  channels: int,
  seconds: float,
  notes: list[str] | None = None,
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
    notes: receives, after the last piece, what the user should know about the
      file; see `levels.Levels.notes`.

  Yields:
    int16 `[samples, channels]`.

  Raises:
    Damaged: the file cannot be read to its end, or has no usable audio.
  """
  size = max(1, round(seconds * rate))
  waiting, count = [], 0
  for x in _blocks(path, rate, channels, notes):
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


def _blocks(
  path: Path, rate: int, channels: int, notes: list[str] | None
) -> Iterator[np.ndarray]:
  """Yields blocks of a file as int16 at the target rate and channels."""
  try:
    with block_io.read(path, rate=rate, channels=channels) as (info, blocks):
      if info.rate < MIN_RATE:
        raise Damaged(f"claims a rate of {info.rate} Hz")
      for x in blocks:
        # This inverts libsndfile's int16 -> float32: 16-bit files stay exact.
        yield np.clip(np.rint(x * 32768), -32768, 32767).astype(np.int16)
      if notes is not None:
        notes += blocks.levels.notes(clipped=True)
  except UserError as error:
    # The list of skipped files already names the path.
    raise Damaged(reason_of(error, path)) from error
