"""Squared MMD of two samples, and of rows and their permutations.

The second is the estimator of arXiv 2406.02315, algorithm 1: permuting each
codebook over all rows samples the product of the marginals.
"""

import functools

import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.parallel import mapped
from mmdcodec.parallel.mapped import AxisName
from mmdcodec.quantize import derivatives, pairs, rows
from mmdcodec.quantize.kernels import GaussianKernel, Kernel


def mmd2(
  x: jax.Array,
  y: jax.Array,
  kernel: Kernel = GaussianKernel(),
  *,
  unbiased: bool = True,
  block_size: int | None = None,
  axis_name: AxisName = None,
) -> jax.Array:
  """Squared MMD between two samples (Gretton et al. 2012, lemma 6).

  Args:
    x: rows [n, d] of one distribution.
    y: rows [m, d] of the other distribution, independent of x.
    kernel: k; the result is the sum over its scales.
    unbiased: leave out the pairs of a row with itself. Otherwise the value is
      that of the empirical distributions and never negative.
    block_size: rows in a block of the computation; None chooses.
    axis_name: mapped axes that divide the rows, see `independence_loss`.

  Returns:
    Scalar float32, differentiable with respect to x and y.

  Raises:
    ValueError: the shapes do not fit, or there are too few rows.
    UserError: a call inside `jax.shard_map` or `jax.pmap` without axis_name,
      or with one that cannot be.
  """
  bounds.check_shape("x", x, n=..., d=None)
  bounds.check_shape("y", y, m=..., d=x.shape[1])
  mapped.check_global("an MMD", axis_name, takes_name=True, rows=[x, y])
  x, y = (mapped.gather(v, axis_name) for v in (x, y))
  rows.check_rows(min(len(x), len(y)), block_size, unbiased=unbiased)
  n, m = len(x), len(y)
  if block_size is None:
    block_size = pairs.block_for(min(n, m), 1, axis_name)
  x, y = rows.replicated(x), rows.replicated(y)
  if kernel.relative:
    both = jnp.concatenate([x, y])[:, None]
    scale = rows.median_distances(both, jnp.ones((n + m,), bool))
    x, y = x / scale, y / scale
  x, y = rows.centred(kernel, x, y)
  others = (n - 1, m - 1) if unbiased else (n, m)
  weights = jnp.array(
    [
      [2.0 / (n * others[0]), -2.0 / (n * m)],
      [-2.0 / (n * m), 2.0 / (m * others[1])],
    ],
    jnp.float32,
  )
  row = jnp.arange(n + m)[None]
  value = pairs.weighted_sum(
    [(x, row[:, :n]), (y, row[:, n:])],
    weights,
    kernel,
    block_size,
    axis_name,
  )
  if not unbiased:
    value += sum(rows.diagonal(kernel, v).sum() / len(v) ** 2 for v in (x, y))
  return mapped.mean(value, axis_name)


def permuted_mmd2(
  z: jax.Array,
  valid: jax.Array,
  key: jax.Array,
  kernel: Kernel,
  block: int | None,
  axis_name: AxisName = None,
) -> jax.Array:
  """MMD^2 of rows and the same rows with each codebook permuted.

  Pairs of a row with itself, and of a row with a permuted row that holds a part
  of it, are left out, so the estimate is unbiased.

  Args:
    z: float32 [n, codebooks, dim].
    valid: bool [n], rows that count.
    key: random key of the permutations.
    kernel: k of whole rows.
    block: rows in a block of the computation; None chooses.
    axis_name: mapped axes whose devices all hold these rows.

  Returns:
    Scalar float32, differentiable with respect to z.
  """
  n, books, dim = z.shape
  block = pairs.block_for(n, 1, axis_name) if block is None else block
  z = rows.replicated(z)
  if kernel.relative:
    z = z / rows.median_distances(z, valid)[:, None]
  # For each codebook the valid rows in random order, then the others.
  noise = jax.random.uniform(key, (books, n), jnp.float32)
  order = jnp.argsort(jnp.where(valid, noise, 2.0), axis=1)

  # A permuted row consists of up to `books` rows and pairs with none of them.
  count = valid.sum()
  slot = jnp.arange(n)
  own = jnp.broadcast_to(jnp.where(valid, slot, -1), (books, n))
  source = jnp.where(slot < count, order, -1)
  repeated = [
    functools.reduce(
      jnp.logical_or, [order[k] == o for o in order[:k]], jnp.zeros(n, bool)
    )
    for k in range(books)
  ]
  shared = sum(jnp.sum((slot < count) & ~r) for r in repeated)
  count = count.astype(jnp.float32)
  across_pairs = count * count - shared
  # Two or three rows may leave nothing to compare.
  any_pair = (across_pairs > 0).astype(jnp.float32)
  within = any_pair * 2.0 / jnp.maximum(count * (count - 1), 1)
  across = any_pair * -2.0 / jnp.maximum(across_pairs, 1)
  permuted = derivatives.reordered(z, order)
  return pairs.weighted_sum(
    [(z.reshape(n, -1), own), (permuted.reshape(n, -1), source)],
    jnp.array([[within, across], [across, within]]),
    kernel,
    block,
    axis_name,
  )
