"""Which samples are not audio, and what is said of others."""

import os
import warnings
from typing import Any

import numpy as np

from mmdcodec import formatting
from mmdcodec.errors import Notice, UserError

# Floats may exceed full scale: mixes of studios peak at 2 or 4. Beyond 18 dB,
# where next to nothing of the music would survive clipping, samples are of
# another scale.
MAX_PEAK = 8.0

# Music in floats is never all whole numbers, but for silence and full scale.
_MIN_WHOLE = 2.0

# Share of samples beyond full scale that is worth a word. Lossy coders push
# fewer of those of loud music over it, by little.
_TELL = 1e-3

# Channels cancel if their mix is quieter than they are by 60 dB: that is a
# channel and its negative, with no more than the noise of 16 bits in between.
_CANCELLED = 1e-6


def as_floats(x: Any, name: str) -> np.ndarray:
  """Converts samples in any array to float32.

  Args:
    x: an array of NumPy or another library, or nested lists.
    name: what holds them, in messages.

  Raises:
    UserError: x is the path of a file, or holds clips of different lengths.
  """
  if isinstance(x, str | os.PathLike):
    raise UserError(
      f"{name}: expected samples, not the name {str(x)!r}; read the file with"
      " mmdcodec.audio.files.read, and pass its rate too."
    )
  try:
    return np.asarray(x, np.float32)
  except ValueError:
    raise UserError(
      f"{name}: expected one array of numbers, but its parts differ in length;"
      " pad them to the longest, or pass one after the other."
    ) from None


def check(x: np.ndarray, name: str) -> None:
  """Checks that samples are audio of full scale 1.

  Args:
    x: float samples of any shape.
    name: what holds them, in messages.

  Raises:
    UserError: a sample is NaN or infinite; or exceeds full scale by more than
      18 dB; or all of them are whole numbers and some exceed 1.
  """
  if not x.size:
    return
  peak = float(max(x.max(), -x.min()))
  if not np.isfinite(peak):
    raise UserError(
      f"{name}: holds NaN or infinite samples; export it again as finite audio."
    )
  whole = peak >= _MIN_WHOLE and bool((x == np.rint(x)).all())
  if whole or peak > MAX_PEAK:
    raise UserError(
      f"{name}: samples reach {peak:g}, and full scale is 1; scale them down"
      " (divide by 32768 if they were integers of 16 bits)."
    )


class Levels:
  """Measures samples block by block, for what is to be said about them.

  Attributes:
    peak: largest magnitude so far.
  """

  def __init__(self) -> None:
    """Begins without samples."""
    self.peak = 0.0
    self._count, self._over = 0, 0
    # Energy of the channels and of their mix, if they are mixed.
    self._energy, self._mixed = 0.0, 0.0

  @property
  def over(self) -> float:
    """Share of the samples that exceed full scale."""
    return self._over / max(1, self._count)

  @property
  def cancelled(self) -> bool:
    """Whether the channels are not silent and their mix is."""
    return self._mixed < _CANCELLED * self._energy

  def add(self, x: np.ndarray, mixed: np.ndarray | None = None) -> None:
    """Measures a block.

    Args:
      x: float32 `[samples, channels]`.
      mixed: float32 `[samples, channels]`, the mix of x, if it is mixed; its
        samples are what can be clipped.
    """
    if not x.size:
      return
    mixed = x if mixed is None else mixed
    peak = float(max(mixed.max(), -mixed.min()))
    self.peak = max(self.peak, peak)
    self._count += mixed.size
    if peak > 1:
      self._over += int(np.count_nonzero(np.abs(mixed) > 1))
    if mixed.shape[1] < x.shape[1]:
      self._energy += float(np.vdot(x, x)) / x.shape[1]
      self._mixed += float(np.vdot(mixed, mixed)) / mixed.shape[1]

  def notes(self, *, clipped: bool = False) -> list[str]:
    """Returns what the user should know, in words without a period.

    Args:
      clipped: whether samples beyond full scale were clipped.
    """
    notes = []
    if self.over >= _TELL:
      notes.append(
        f"{formatting.share(self.over)} of the samples exceed full scale (peak"
        f" {self.peak:.3g})" + (" and are clipped" if clipped else "")
      )
    if self.cancelled:
      notes.append(
        "its channels cancel each other, so their mix is silence; invert one of"
        " them, or keep one"
      )
    return notes

  def tell(self, name: str, *, clipped: bool = False) -> None:
    """Warns (`errors.Notice`) of what `notes` returns.

    Args:
      name: name of the file in the message.
      clipped: as in `notes`.
    """
    for words in self.notes(clipped=clipped):
      warnings.warn(f"{name}: {words}.", Notice, stacklevel=3)
