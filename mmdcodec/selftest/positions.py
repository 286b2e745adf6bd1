"""Checks of position encodings, forward and backward."""

import functools
from typing import Any

import numpy as np

from mmdcodec.nn import positions
from mmdcodec.selftest import references
from mmdcodec.selftest.check import Check, Devices, both_ways, normal, off

# Buckets of distances, and the distance from which all share the last one.
_BUCKETS, _FAR = 8, 21


def rotations(devices: Devices) -> dict[str, float]:
  """Of queries and keys, at positions that differ between the items."""
  at: Any = np.arange(40) + np.array([[0], [7]])
  return both_ways(
    "rotary",
    functools.partial(positions.rotate, positions=at),
    functools.partial(references.rotate, positions=at),
    (normal(2, 40, 3, 16),),
  )


def waves(devices: Devices) -> dict[str, float]:
  """Sinusoids."""
  at: Any = np.arange(60)[None]
  return {
    "sinusoids": off(
      positions.sinusoids(at, 24), references.sinusoids(at, 24)
    )
  }


def biases(devices: Devices) -> dict[str, float]:
  """Values per distance: of T5's buckets, and shifted into place."""
  distance: Any = np.arange(30)[:, None] - np.arange(30)
  bucket = references.buckets(distance, _BUCKETS, _FAR)
  buckets = positions.relative_buckets(
    -np.arange(_FAR + 1), buckets=_BUCKETS, max_distance=_FAR,
    bidirectional=False,
  )  # fmt: skip
  left, right = 5, 3
  shifted = np.clip(-distance, -left, right) + left
  return {
    **both_ways(
      "buckets",
      lambda table: positions.look_up(table, buckets, distance[None]),
      lambda table: np.moveaxis(table[bucket], -1, 0)[None],
      (normal(_BUCKETS, 3),),
    ),
    **both_ways(
      "keys",
      lambda x: positions.relative_logits(x, left, right),
      lambda x: np.take_along_axis(
        x, np.broadcast_to(shifted, (2, 30, 30)), -1
      ),
      (normal(2, 30, left + right + 1),),
    ),
  }


CHECKS = (
  Check("rotary positions", "turn channels as in float64", rotations),
  Check("sinusoids", "equal cosines and sines in float64", waves),
  Check("relative positions", "find the value of each distance", biases),
)
