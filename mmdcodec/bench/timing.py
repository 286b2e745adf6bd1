"""Times of repeated calls, the first of which compiles and does not count."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np


def take_turns(
  ways: Mapping[str, Callable[[], Any]], runs: int
) -> dict[str, list[float]]:
  """Measures the seconds of each way in each run, after one warm-up call.

  All ways run once before any runs again, so that other load slows all of them.
  """
  times: dict[str, list[float]] = {name: [] for name in ways}
  for run in range(runs + 1):
    for name, way in ways.items():
      start = time.perf_counter()
      jax.block_until_ready(way())
      if run:
        times[name].append(time.perf_counter() - start)
  return times


def ratio(some: Sequence[float], others: Sequence[float]) -> float:
  """Median over the runs of the ratio of two ways that took turns.

  What slows a whole run does not change it, unlike the ratio of their medians.
  """
  return float(np.median(np.divide(some, others)))


def median_seconds(function: Callable, *args: Any, runs: int) -> float:
  """Measures the median seconds of a function, after one warm-up call."""
  times = take_turns({"": lambda: function(*args)}, runs)
  return float(np.median(times[""]))
