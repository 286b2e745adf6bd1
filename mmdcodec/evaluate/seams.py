"""Whether music has seams where the windows that it was made in meet.

Each measure has a value for every moment of a piece: how much the level
changes, how much the spectrum rises, how many codes change. If borders are
places like any other, their values are spread over the ranks of all the other
moments: half of them below the median, 5% above the 95th percentile.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mmdcodec.audio import transforms
from mmdcodec.evaluate import bootstrap

# Seconds of a moment, and seconds on both sides of a border that belong to it:
# a codec smears what happens there.
MOMENT, NEAR = 0.02, 0.04
_MELS = 64
# Random shifts of the borders.
SHIFTS = 2000
_HIGH = 0.95


class Seam(NamedTuple):
  """Ranks of the values at borders among those elsewhere.

  Attributes:
    borders: number of borders.
    rank: their mean rank, 0.5 if they are places like any other.
    low: lower end of its 95% bootstrap interval over the borders.
    high: upper end.
    above: share of borders above the 95th percentile of other moments.
    p: share of shifts of all borders by random times (including none) with a
      mean rank at least as high.
  """

  borders: int
  rank: float
  low: float
  high: float
  above: float
  p: float


def level_change(x: np.ndarray, rate: int) -> np.ndarray:
  """Change in level between a moment and the one before, in dB.

  Args:
    x: [samples, channels].
    rate: Hz.

  Returns:
    float [moments]; the first is 0.
  """
  size = max(1, round(MOMENT * rate))
  whole = len(x) // size * size
  blocks = np.asarray(x, np.float64)[:whole].reshape(whole // size, -1)
  level = 10 * np.log10(np.mean(blocks**2, axis=1) + 1e-10)
  return np.abs(np.diff(level, prepend=level[:1]))


def flux(x: np.ndarray, rate: int) -> np.ndarray:
  """Spectral flux: mean rise of the mel bands since the moment before, in dB.

  Args:
    x: [samples, channels].
    rate: Hz.

  Returns:
    float [moments]; the first is 0.
  """
  size = max(1, round(MOMENT * rate))
  level = transforms.log_mel(
    jnp.asarray(x).mean(-1), rate=rate, window=2 * size, hop=size, mels=_MELS
  )
  rise = np.maximum(np.diff(np.asarray(level), axis=0), 0).mean(1)
  # Frame t is centred where moment t begins.
  return np.concatenate([[0.0], rise])[: len(x) // size]


def code_change(codes: np.ndarray) -> np.ndarray:
  """Share of the codes that differ from those of the frame before.

  Args:
    codes: int [frames, codebooks].

  Returns:
    float [frames]; the first is 0.
  """
  change = (np.diff(codes, axis=0) != 0).mean(1)
  return np.concatenate([[0.0], change])


def compare(
  values: Sequence[np.ndarray],
  value_rate: float,
  borders: Sequence[float],
  seed: int = 0,
) -> Seam | None:
  """Ranks the values at borders among those elsewhere.

  Args:
    values: of each piece, [moments]; all as long.
    value_rate: moments per second.
    borders: seconds; the same in each piece.
    seed: seed of the shifts.

  Returns:
    None if there are no borders.
  """
  rows = np.stack(values)
  pieces, moments = rows.shape
  near = max(1, round(NEAR * value_rate))
  at = np.unique(np.round(np.asarray(borders) * value_rate).astype(int))
  at = at[(at > near) & (at < moments - near)]
  if not len(at):
    return None
  around = np.arange(-near, near + 1)

  def peaks(places: np.ndarray) -> np.ndarray:
    """The largest value around each place [pieces, places]."""
    return rows[:, (places[:, None] + around) % moments].max(-1)

  every = peaks(np.arange(moments))
  # Moments that see nothing of a border.
  other = np.ones(moments, bool)
  other[(at[:, None] + np.arange(-2 * near, 2 * near + 1)) % moments] = False
  # Ranks within the piece; ties count half.
  inside = np.sort(every[:, other], axis=1)
  ranks = np.empty((pieces, moments))
  for piece in range(pieces):
    below = np.searchsorted(inside[piece], every[piece], "left")
    up_to = np.searchsorted(inside[piece], every[piece], "right")
    ranks[piece] = (below + up_to) / 2 / inside.shape[1]
  own = ranks[:, at]
  random = np.random.default_rng(seed)
  shifts = random.integers(0, moments, SHIFTS)
  found = ranks[:, (at + shifts[:, None]) % moments].mean((0, 2))
  flat = own.ravel()
  rank, low, high = bootstrap.mean(flat)
  return Seam(
    borders=flat.size,
    rank=rank,
    low=low,
    high=high,
    above=float(np.mean(flat > _HIGH)),
    p=float((1 + np.sum(found >= flat.mean() - 1e-12)) / (1 + SHIFTS)),
  )


Measure = Callable[[np.ndarray, int], np.ndarray]
AUDIO: dict[str, Measure] = {"level": level_change, "spectral flux": flux}
