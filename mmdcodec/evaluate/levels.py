"""What a level of a hierarchy fixes: how alike pieces are that share it.

Groups of pieces have the same tokens of one level, and all levels below are
drawn anew in each piece. What pieces of a group have in common is what the
level carries. Pieces that share nothing are the yardstick.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mmdcodec.audio import transforms
from mmdcodec.evaluate import chroma, retrieval, traits

# Names of what is no trait.
CHROMA, TIMBRE = "pitch classes", "timbre"
_MELS = 64


class Value(NamedTuple):
  """A mean over groups, with its 95% bootstrap interval over the groups."""

  value: float
  low: float
  high: float


def measure(
  audio: np.ndarray, rate: int, classifiers: traits.Classifiers
) -> dict[str, Value]:
  """Compares all pairs of pieces in each group.

  Args:
    audio: float [groups, pieces, samples].
    rate: Hz.
    classifiers: those of the traits.

  Returns:
    For each trait, the share of pairs in which it is the same; `CHROMA`, the
    share of frames with the same pitch class; and `TIMBRE`, the distance of
    mel statistics in dB.
  """
  groups, pieces, samples = audio.shape
  flat = audio.reshape(-1, samples)
  of = lambda values: np.array(values).reshape(groups, pieces, -1)
  heard = classifiers(traits.features(flat, rate))
  found = {
    name: _means([_equal(group) for group in of(values)])
    for name, values in heard.items()
  }
  tunes = of([chroma.classes(x, rate) for x in flat])
  found[CHROMA] = _means([chroma.agreement([*each], [*each]) for each in tunes])
  spectra = of([mel_statistics(x, rate) for x in flat])
  found[TIMBRE] = _means([_distances(group) for group in spectra])
  return found


def measure_strangers(
  audio: np.ndarray, rate: int, classifiers: traits.Classifiers
) -> dict[str, Value]:
  """Does the same for pieces of different groups; see `measure`."""
  return measure(audio.swapaxes(0, 1), rate, classifiers)


def mel_statistics(x: np.ndarray, rate: int) -> np.ndarray:
  """Mean and deviation in time of each mel band in dB, without loudness."""
  level = np.asarray(
    transforms.log_mel(
      jnp.asarray(x), rate=rate, window=1024, hop=512, mels=_MELS, top=60.0
    )
  )
  mean = level.mean(0)
  return np.concatenate([mean - mean.mean(), level.std(0)])


def _equal(values: np.ndarray) -> np.ndarray:
  return values[:, 0][:, None] == values[:, 0]


def _distances(rows: np.ndarray) -> np.ndarray:
  return np.abs(rows[:, None] - rows).mean(-1)


def _means(tables: list[np.ndarray]) -> Value:
  """Mean over the pairs of two pieces in tables [pieces, pieces]."""
  pairs = np.triu_indices(len(tables[0]), 1)
  means = np.array([table[pairs].mean() for table in tables])
  interval = retrieval.interval(lambda some: means[some].mean(), len(means))
  return Value(float(means.mean()), *interval)
