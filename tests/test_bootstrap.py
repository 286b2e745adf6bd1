"""Bootstrap intervals, against normal theory and direct counts.

Must catch: intervals of another width, a value that is not that of the items
themselves, and samples without a measure that count.
"""

import numpy as np

from mmdcodec.evaluate import bootstrap


def test_interval_covers():
  values = np.random.default_rng(0).standard_normal(400)
  value, low, high = bootstrap.mean(values)
  assert low < value < high
  np.testing.assert_allclose(value, values.mean())
  np.testing.assert_allclose(high - low, 2 * 1.96 / 20, rtol=0.15)
  assert np.isnan(bootstrap.interval(lambda i: np.nan, 4)).all()


def test_weighted_samples_are_those_of_indices():
  """Catches items that count another number of times than there are items."""
  times = bootstrap.times(50)
  assert times.shape == (1 + bootstrap.DRAWS, 50)
  assert (times[0] == 1).all() and (times.sum(1) == 50).all()
  # The variance of a count is 1 - 1 / n.
  np.testing.assert_allclose(times[1:].var(), 1, rtol=0.1)
  values = np.random.default_rng(1).standard_normal(50)
  found = bootstrap.of_times(times @ values / 50)
  wanted = bootstrap.mean(values)
  np.testing.assert_allclose(found.value, values.mean())
  np.testing.assert_allclose(found, wanted, atol=0.05)


def test_mean_of_what_is_known():
  x = np.array([[1.0, np.nan, 3.0], [np.nan, np.inf, np.nan]])
  np.testing.assert_array_equal(bootstrap.finite_mean(x, 1), [2.0, np.nan])
  np.testing.assert_array_equal(bootstrap.finite_mean(x, 0), [1, np.nan, 3])
  assert bootstrap.shown(*bootstrap.Measure(0.5, 0.25, 1.0), 2) == (
    "0.50 (0.25-1.00)"
  )
  assert bootstrap.shown(np.nan, 0.0, 1.0) == "–"
