"""Whether each thing is more like its own partner than like those of others.

For example pieces and the prompts that they were made from, or pieces and the
melodies that they were to follow. What is alike by chance is what the pieces
have in common with the partners of other pieces, and a permutation test says
how often random partners are as much alike.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmdcodec.evaluate import bootstrap

SHUFFLES = 10_000


class Pairing(NamedTuple):
  """How much things are like their own partners.

  Attributes:
    own: mean over the things.
    low: lower end of its 95% bootstrap interval over the things.
    high: upper end.
    chance: mean over all pairs of a thing and the partner of another; NaN if
      there is no other.
    p: share of random pairings (including the actual one) whose mean is at
      least `own`.
    things: how many they are.
  """

  own: float
  low: float
  high: float
  chance: float
  p: float
  things: int


def measure(
  alike: np.ndarray,
  *,
  partners: Sequence[str] | None = None,
  shuffles: int = SHUFFLES,
) -> Pairing:
  """Compares own partners with those of others.

  Args:
    alike: float or bool [things, partners], the partner of thing i being i.
    partners: names of the partners. Those with the same name are one partner,
      which several things have. None: they are all different.
    shuffles: number of random pairings.
  """
  alike = np.asarray(alike, np.float64)
  count, at = len(alike), np.arange(len(alike))
  own = np.diagonal(alike)
  names = np.asarray(at if partners is None else partners)
  strangers = alike[names[:, None] != names]
  random = np.random.default_rng(0)
  found = [alike[at, random.permutation(count)].sum() for _ in range(shuffles)]
  # Sums of the same numbers in another order round otherwise.
  reached = np.array(found) >= own.sum() - 1e-9 * max(1.0, np.abs(own).sum())
  return Pairing(
    *bootstrap.mean(own),
    float(strangers.mean()) if len(strangers) else math.nan,
    float((1 + reached.sum()) / (1 + shuffles)),
    count,
  )


def sign_test(better: np.ndarray) -> Pairing:
  """Compares paired differences with 0, for things that come in pairs.

  Args:
    better: float [things], how much more a thing is like its own partner than
      like another.

  Returns:
    `own` is the mean difference, `chance` 0, and `p` the share of random signs
    (including the actual ones) whose mean is at least `own`.
  """
  better = np.asarray(better, np.float64)
  random = np.random.default_rng(0)
  signs = random.choice([-1.0, 1.0], (SHUFFLES, len(better)))
  reached = signs @ better >= better.sum() - 1e-9 * np.abs(better).sum()
  return Pairing(
    *bootstrap.mean(better),
    0.0,
    float((1 + reached.sum()) / (1 + SHUFFLES)),
    len(better),
  )
