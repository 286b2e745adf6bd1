"""Bootstrap confidence intervals of measures of independent items.

The items are drawn with replacement, as many as there are, and measured again
(Efron 1979). An interval is the range of the middle 95% of such samples.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# Samples, and the share of them that an interval holds.
DRAWS, COVERED = 1000, 0.95


class Measure(NamedTuple):
  """A number with the ends of its 95% interval."""

  value: float
  low: float
  high: float


def shown(value: float, low: float, high: float, digits: int = 3) -> str:
  """Formats a measure: `0.812 (0.780-0.841)`, or a dash for NaN."""
  if math.isnan(value):
    return "–"
  return f"{value:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def interval(
  measure: Callable[[np.ndarray], float], count: int, seed: int = 0
) -> tuple[float, float]:
  """Confidence interval of any measure.

  Args:
    measure: called with the indices of a sample [count], drawn with
      replacement; a sample whose measure is not finite does not count.
    count: number of items.
    seed: seed of the samples.

  Returns:
    (low, high); NaN if no sample has a measure.
  """
  rng = np.random.default_rng(seed)
  found = [measure(rng.integers(0, count, count)) for _ in range(DRAWS)]
  return middle(found)


def mean(values: np.ndarray | Sequence[float]) -> Measure:
  """The mean of a value of each item, with its interval."""
  values = np.asarray(values, np.float64)
  ends = interval(lambda some: values[some].mean(), len(values))
  return Measure(float(values.mean()), *ends)


def times(count: int) -> np.ndarray:
  """How often each item counts: once, and then in each sample.

  For measures that take weights, of all samples at once.

  Args:
    count: number of items.

  Returns:
    int [1 + samples, count].
  """
  rng = np.random.default_rng(0)
  samples = rng.multinomial(count, np.full(count, 1 / count), DRAWS)
  return np.concatenate([np.ones((1, count), samples.dtype), samples])


def of_times(found: np.ndarray) -> Measure:
  """A measure of the items [1 + samples], from `times`, with its interval."""
  return Measure(float(found[0]), *middle(found[1:]))


def middle(found: Sequence[float] | np.ndarray) -> tuple[float, float]:
  """The range of the middle `COVERED` of finite values; NaN without any."""
  found = np.asarray(found)[np.isfinite(found)]
  if not found.size:
    return math.nan, math.nan
  tail = 50 * (1 - COVERED)
  low, high = np.percentile(found, [tail, 100 - tail])
  return float(low), float(high)


def finite_mean(values: np.ndarray, axis: int) -> np.ndarray:
  """Mean of the finite values along an axis; NaN where there are none."""
  known = np.isfinite(values)
  count = known.sum(axis)
  total = np.where(known, values, 0).sum(axis)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)
