"""ViSQOL, a measure of quality as listeners judge it, if it is installed.

    pip install visqol-python

ViSQOL (Chinen et al. 2020, arXiv 2004.09584) compares the spectrograms of two
recordings and predicts the mean opinion score of a listening test: 1 is bad,
5 is excellent. Equal recordings get about 4.7.
"""

import importlib.metadata
from collections.abc import Iterable

import numpy as np

from mmdcodec.audio import files

# What its audio mode takes, in Hz.
_RATE = 48000


def installed() -> bool:
  """Whether the library is there, and not another one of its name."""
  try:
    importlib.metadata.version("visqol-python")
  except importlib.metadata.PackageNotFoundError:
    return False
  return True


def mean_score(
  pairs: Iterable[tuple[np.ndarray, np.ndarray]], rate: int
) -> float:
  """The mean score of pairs of recordings.

  Args:
    pairs: the original and what became of it, both [samples, channels].
    rate: of all recordings, in Hz.
  """
  import visqol

  listener = visqol.VisqolApi()
  listener.create(mode="audio")
  at_rate = lambda x: files.resample(files.mix(x, 1), rate=rate, to=_RATE)[:, 0]
  return float(
    np.mean(
      [
        listener.measure_from_arrays(at_rate(x), at_rate(y), _RATE).moslqo
        for x, y in pairs
      ]
    )
  )
