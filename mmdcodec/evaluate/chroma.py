"""How far two pieces have the same melody: the share of equal pitch classes.

MusicGen (Copet et al. 2023, arXiv 2306.05284, 4.1) measures melody adherence
so: the strongest pitch class of each frame of both, compared frame by frame.
There, silence counts as C, so that silence follows every melody in C. Here it
equals silence alone.
"""

from collections.abc import Sequence

import numpy as np

from mmdcodec.audio import melody

# Seconds of a frame, at least; frames overlap by three quarters.
_WINDOW = 0.37
# What silent frames have, and their mean power at most (-80 dBFS).
SILENT, _POWER = -1, 1e-8


def classes(x: np.ndarray, rate: int) -> np.ndarray:
  """The strongest pitch class of each frame, or `SILENT`.

  Args:
    x: audio [samples] or [samples, channels].
    rate: Hz.

  Returns:
    int32 [frames].
  """
  window = 1 << int(np.ceil(np.log2(_WINDOW * rate)))
  hop = window // 4
  found = melody.pitch_classes(x, rate, window=window, hop=hop)
  power = np.square(np.asarray(x, np.float64))
  if power.ndim == 2:
    power = power.mean(axis=1)
  # Music shorter than a window is centred in one.
  first = max(0, window - len(power)) // 2
  sums = np.concatenate([[0.0], np.cumsum(power)])
  middle = hop * np.arange(len(found)) - first
  begin, end = np.clip(
    [middle - window // 2, middle + window // 2], 0, len(power)
  )
  silent = sums[end] - sums[begin] <= _POWER * np.maximum(end - begin, 1)
  return np.where(silent, SILENT, found).astype(np.int32)


def agreement(
  some: Sequence[np.ndarray], others: Sequence[np.ndarray]
) -> np.ndarray:
  """Share of frames with equal classes, over the length of the shorter one.

  Args:
    some: results of `classes`.
    others: results of `classes` at the same rate.

  Returns:
    float64 [some, others].
  """
  found = np.empty((len(some), len(others)))
  for i, one in enumerate(some):
    for j, other in enumerate(others):
      frames = min(len(one), len(other))
      found[i, j] = np.mean(one[:frames] == other[:frames])
  return found
