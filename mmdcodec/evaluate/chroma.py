"""How far two pieces have the same melody: the share of equal pitch classes.

MusicGen (Copet et al. 2023, arXiv 2306.05284, 4.1) measures melody adherence
so: the strongest pitch class of each frame of both, compared frame by frame.
"""

from collections.abc import Sequence

import numpy as np

from mmdcodec.audio import melody

# Seconds of a frame, at least; frames overlap by three quarters.
_WINDOW = 0.37


def classes(x: np.ndarray, rate: int) -> np.ndarray:
  """The strongest pitch class of each frame.

  Args:
    x: audio [samples] or [samples, channels].
    rate: Hz.

  Returns:
    int32 [frames].
  """
  window = 1 << int(np.ceil(np.log2(_WINDOW * rate)))
  return melody.pitch_classes(x, rate, window=window, hop=window // 4)


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
