"""What a level of a hierarchy fixes: how alike pieces are that share it.

Groups of pieces have the same tokens of one level, and all levels below are
drawn anew in each piece. What pieces of a group have in common is what the
level carries. Pieces that share nothing are the yardstick.
"""

import jax.numpy as jnp
import numpy as np

from mmdcodec.audio import transforms
from mmdcodec.evaluate import bootstrap, chroma, traits
from mmdcodec.evaluate.bootstrap import Measure

# Names of what is no trait.
CHROMA, TIMBRE = "pitch classes", "timbre"
_MELS = 64


def measure(
  audio: np.ndarray, rate: int, classifiers: traits.Classifiers
) -> dict[str, Measure]:
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
  tables = _tables(audio, rate, classifiers)
  pairs = np.triu_indices(audio.shape[1], 1)
  return {
    name: bootstrap.mean(table[:, *pairs].mean(1))
    for name, table in tables.items()
  }


def measure_strangers(
  audio: np.ndarray, rate: int, classifiers: traits.Classifiers
) -> dict[str, Measure]:
  """Compares pieces of different groups, those with the same number.

  Their pairs are not independent, as a group is in many of them, so it is the
  groups that are resampled; see `measure`.
  """
  tables = _tables(audio.swapaxes(0, 1), rate, classifiers)
  found = {}
  for name, table in tables.items():
    alike = table.mean(0)

    def mean(some: np.ndarray, alike: np.ndarray = alike) -> float:
      # A group that was drawn twice is no stranger to itself.
      others = some[:, None] != some
      pairs = alike[some[:, None], some][others]
      return float(pairs.mean()) if len(pairs) else np.nan

    every = np.arange(len(alike))
    ends = bootstrap.interval(mean, len(alike))
    found[name] = Measure(mean(every), *ends)
  return found


def _tables(
  audio: np.ndarray, rate: int, classifiers: traits.Classifiers
) -> dict[str, np.ndarray]:
  """What `measure` averages: [groups, pieces, pieces] of each group's pairs."""
  groups, pieces, samples = audio.shape
  flat = audio.reshape(-1, samples)
  of = lambda values: np.array(values).reshape(groups, pieces, -1)
  heard = classifiers(traits.features(flat, rate))
  found = {
    name: np.stack([_equal(group) for group in of(values)])
    for name, values in heard.items()
  }
  tunes = of([chroma.classes(x, rate) for x in flat])
  found[CHROMA] = np.stack(
    [chroma.agreement([*each], [*each]) for each in tunes]
  )
  spectra = of([mel_statistics(x, rate) for x in flat])
  found[TIMBRE] = np.stack([_distances(group) for group in spectra])
  return found


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
