"""Checks of the independence loss as training calls it: rows of streams."""

import functools
from typing import Any

import jax
import numpy as np

from mmdcodec import patterns
from mmdcodec.quantize import independence, kernels
from mmdcodec.selftest import references
from mmdcodec.selftest.check import Check, Devices, both_ways, normal
from mmdcodec.selftest.references import wide

_RADII = (1.0, 3.0)
_BATCH, _FRAMES, _BOOKS, _DIM = 4, 40, 3, 5
_LENGTHS = (40, 40, 31, 12)


def _terms(squares: np.ndarray) -> list[np.ndarray]:
  return [np.exp(-squares / (2 * r**2)) for r in _RADII]


def _rows(streams: Any, delayed: bool) -> np.ndarray:
  """Standardised rows [rows, codebooks, dim] of the frames that count.

  A delayed step holds frame t - k of codebook k; all of them have to be there.
  """
  found = []
  for clip, length in zip(wide(streams), _LENGTHS, strict=True):
    late = _BOOKS - 1 if delayed else 0
    for t in range(late, length):
      # Of the delay's last codebook, t is the frame that it has in this step.
      found.append([clip[t - k * delayed, k] for k in range(_BOOKS)])
  rows = np.array(found)
  return (rows - rows.mean(0)) / np.sqrt(rows.var(0, ddof=1) + 1e-8)


def _permuted(streams: Any, delayed: bool, order: np.ndarray) -> np.ndarray:
  """MMD^2 of rows and of permuted ones, without pairs that share a part."""
  rows = _rows(streams, delayed)
  n = len(rows)
  other = np.stack([rows[order[k], k] for k in range(_BOOKS)], 1)
  rows, other = rows.reshape(n, -1), other.reshape(n, -1)
  kernel = lambda a, b: np.sum(
    _terms(((a[:, None] - b[None]) ** 2).sum(-1)), 0
  )
  apart = ~np.eye(n, dtype=bool)
  # Row i has no part in the permuted row j.
  foreign = np.all(order[:, None] != np.arange(n)[:, None], 0)
  return np.asarray(
    kernel(rows, rows)[apart].mean()
    + kernel(other, other)[apart].mean()
    - 2 * kernel(rows, other)[foreign].mean()
  )


def _order(mask: np.ndarray, key: jax.Array) -> np.ndarray:
  """The permutations [codebooks, rows] of the rows that count."""
  # `fold_in` numbers the kinds of steps; there is one.
  noise = jax.random.uniform(
    jax.random.fold_in(key, 0), (_BOOKS, mask.size), jax.numpy.float32
  )
  place = np.full(mask.size, -1)
  place[mask] = np.arange(mask.sum())
  order = np.argsort(np.where(mask, np.asarray(noise), 2.0), 1, kind="stable")
  return place[order[:, : mask.sum()]]


def loss(estimator: str, devices: Devices) -> dict[str, float]:
  """Value and gradient, of frames and of the steps of a delay pattern."""
  streams = normal(_BATCH, _FRAMES, _BOOKS, _DIM)
  streams[:, :, 1] += 0.8 * streams[:, :, 0]
  streams[:, :-2, 2] += 0.8 * streams[:, 2:, 0]
  mask: Any = np.arange(_FRAMES) < np.array(_LENGTHS)[:, None]
  key, found = jax.random.key(3), {}
  for delayed in (False, True):
    held = mask
    if delayed:
      held = mask[:, _BOOKS - 1 :]
    if estimator == "dhsic":
      reference: Any = lambda z, delayed=delayed: references.dhsic(
        _rows(z, delayed), _terms
      )
    else:
      reference = functools.partial(
        _permuted, delayed=delayed, order=_order(held.reshape(-1), key)
      )
    found |= both_ways(
      "a delay pattern" if delayed else "frames",
      functools.partial(
        independence.independence_loss,
        key=key,
        pattern=patterns.delay(_BOOKS) if delayed else None,
        kernel=kernels.GaussianKernel(_RADII),
        estimator=estimator,
        mask=mask,
        block_size=64,
      ),
      reference,
      (streams,),
      np.ones(()),
    )
  return found


CHECKS = tuple(
  Check(
    f"independence loss of streams, {estimator}",
    "equal its estimate of the rows in float64",
    functools.partial(loss, estimator),
    # The value is what is left of means that nearly cancel.
    1e-4,
  )
  for estimator in independence.ESTIMATORS
)
