"""Rows of code vectors: selection by a pattern, and preparation for a kernel.

A row holds one vector per codebook [codebooks, dim]: the codes that one step of
a language model predicts together under its pattern.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.parallel import rules
from mmdcodec.patterns import PatternMaker
from mmdcodec.quantize.kernels import Kernel

# Rows from which a median distance is estimated.
_MEDIAN_ROWS = 1024


def of_streams(
  streams: jax.Array, mask: jax.Array, pattern: PatternMaker | None
) -> list[tuple[jax.Array, jax.Array]]:
  """Makes rows: the vectors of the codes that one step of a pattern predicts.

  Args:
    streams: [batch, frames, codebooks, dim].
    mask: bool [batch, frames], False in padding.
    pattern: pattern of the language model; None means all codebooks of a frame.

  Returns:
    For each kind of step with more than one code: rows float32 [n, codebooks of
    that kind, dim], 0 where they do not count, and bool [n], where they do.

  Raises:
    ValueError: the pattern has another number of codebooks.
  """
  batch, frames, books, dim = streams.shape
  groups: tuple = ((range(books), None),)
  if pattern is not None:
    made = pattern(frames)
    if made.codebooks != books:
      raise ValueError(
        f"the pattern has {made.codebooks} codebooks, the streams have {books}"
      )
    groups = made.groups
  found = []
  for members, at in groups:
    z, valid = streams, mask
    if at is not None:
      z = jnp.stack(
        [streams[:, _span(at[:, i]), k] for i, k in enumerate(members)], 2
      )
      valid = functools.reduce(
        jnp.logical_and, [mask[:, _span(column)] for column in at.T]
      )
    # `where` and not a product: padding may hold NaN.
    z = jnp.where(valid[..., None, None], z.astype(jnp.float32), 0.0)
    found.append((z.reshape(-1, len(members), dim), valid.reshape(-1)))
  return found


def _span(frames: np.ndarray) -> slice | np.ndarray:
  """Frames of one codebook as an index: a slice if there is no gap."""
  first, last = int(frames[0]), int(frames[-1])
  return slice(first, last + 1) if last - first + 1 == len(frames) else frames


def standardized(z: jax.Array, valid: jax.Array) -> jax.Array:
  """Scales every coordinate to mean 0 and variance 1 over the rows.

  The gradient goes through both.

  Args:
    z: rows [n, codebooks, dim].
    valid: bool [n], rows that mean and variance include.

  Returns:
    [n, codebooks, dim].
  """
  weight = valid.astype(z.dtype)[:, None, None]
  count = jnp.maximum(weight.sum(), 2.0)
  z = z - (weight * z).sum(0) / count
  variance = (weight * z * z).sum(0) / (count - 1)
  return z * jax.lax.rsqrt(variance + 1e-8)


def median_distances(z: jax.Array, valid: jax.Array) -> jax.Array:
  """Median distance between two rows per codebook (the median heuristic).

  It leaves out pairs of equal vectors, such as one code chosen twice. No
  gradient goes through it.

  Args:
    z: rows [n, codebooks, dim].
    valid: bool [n], rows that count.

  Returns:
    [codebooks]; 1 where all vectors are equal.
  """
  z = jax.lax.stop_gradient(z)
  count = jnp.maximum(valid.sum(), 1)
  order = jnp.argsort(~valid, stable=True)
  # Pairs each row with the row half of all rows away, mostly of another clip.
  pick = jnp.arange(min(len(z), _MEDIAN_ROWS))
  picks = jnp.minimum(count, len(pick))
  first = pick * count // picks % count
  second = (first + count // 2) % count
  distance = jnp.linalg.norm(z[order[first]] - z[order[second]], axis=-1)
  # Rounding errors may separate equal vectors.
  counts = (pick < picks)[:, None] & (distance > 1e-5 * distance.max(0))
  distance = jnp.where(counts, distance, jnp.nan)
  return jnp.nan_to_num(jnp.nanmedian(distance, axis=0), nan=1.0)


def diagonal(kernel: Kernel, z: jax.Array) -> jax.Array:
  """The diagonal k_s(x, x) for vectors x [..., dim]: [scales, ...]."""
  if kernel.of == "distance":
    return jnp.stack(kernel.values(jnp.zeros(z.shape[:-1], z.dtype)))
  return jnp.stack(kernel.values(jnp.mean(z * z, -1)))


def centred(kernel: Kernel, *samples: jax.Array) -> tuple[jax.Array, ...]:
  """Centres samples [n, ...] jointly if the kernel takes distances.

  This keeps the distances and reduces their rounding errors.
  """
  if kernel.of != "distance":
    return samples
  total: Any = sum(x.sum(0) for x in samples)
  mean = total / sum(len(x) for x in samples)
  return tuple(x - jax.lax.stop_gradient(mean) for x in samples)


def replicated(z: jax.Array) -> jax.Array:
  """The array in float32, replicated on every device of the mesh."""
  return rules.constrain(z.astype(jnp.float32), *(None,) * z.ndim)


def check_rows(n: int, block_size: int | None, *, unbiased: bool) -> None:
  """Raises ValueError if there are too few rows or an invalid block size."""
  least = 2 if unbiased else 1
  if n < least:
    raise ValueError(f"there are {n} rows; at least {least} are needed")
  check_block(block_size)


def check_block(block_size: int | None) -> None:
  """Raises ValueError if the block size is below 1."""
  if block_size is not None and block_size < 1:
    raise ValueError(f"block_size is {block_size}; it must be at least 1")
