"""Losses that make codebooks statistically independent (arXiv 2406.02315).

A language model that predicts several codebooks in one step treats them as
independent given the past. The loss measures how far the vectors z_1..z_K of
the codes that it predicts together are from that: the squared maximum mean
discrepancy (MMD) between their joint distribution and the product of their
marginals, 0 when they are independent.

  "mmd"    The paper's estimator (algorithm 1): the marginals' product is drawn
           by permuting each codebook over all rows, and compared with the rows.
  "dhsic"  The mean of that over all permutations, which for a product kernel
           k = prod_k k_k has a closed form (dHSIC, Pfister et al. 2018,
           arXiv 1603.00285, definition 2.6):
             mean_ij prod_k K^k_ij + prod_k mean_ij K^k_ij
               - 2 mean_i prod_k mean_j K^k_ij.
           No noise of permutations, and half of the pairs. A Gaussian of the
           concatenated vectors is such a product.

Pairs of a row with itself are left out of every mean, and with permutations
those of a row with one that holds a part of it. So both estimate 0 without
bias when the codebooks are independent, and may be below 0. They are not
clamped there: a clamp has no gradient. Kernels: `kernels.py`; how the sums over
all pairs are computed: `pairs.py`.
"""

import functools

import jax
import jax.numpy as jnp

from mmdcodec.parallel import rules
from mmdcodec.patterns import PatternMaker
from mmdcodec.quantize import pairs
from mmdcodec.quantize.kernels import (
  KERNELS,
  GaussianKernel,
  InverseMultiquadricKernel,
  Kernel,
  LaplacianKernel,
  LinearKernel,
  QuadraticKernel,
)

__all__ = [
  "ESTIMATORS",
  "KERNELS",
  "GaussianKernel",
  "InverseMultiquadricKernel",
  "Kernel",
  "LaplacianKernel",
  "LinearKernel",
  "QuadraticKernel",
  "dhsic",
  "independence_loss",
  "mmd2",
  "rows_of",
]

ESTIMATORS = ("mmd", "dhsic")
# Rows from which a median distance is taken.
_SAMPLE = 1024


def mmd2(
  x: jax.Array,
  y: jax.Array,
  kernel: Kernel = GaussianKernel(),
  *,
  unbiased: bool = True,
  block_size: int = pairs.BLOCK,
) -> jax.Array:
  """Squared MMD between two samples (Gretton et al. 2012, lemma 6).

  Args:
    x: rows [n, d] of one distribution.
    y: rows [m, d] of the other, independent of x.
    kernel: k; the result is the sum over its scales.
    unbiased: leave out the pairs of a row with itself; otherwise the value is
      that of the empirical distributions and never below 0.
    block_size: rows in a block of the computation.

  Returns:
    Scalar float32, differentiable in x and y.

  Raises:
    ValueError: shapes that do not fit, or too few rows.
  """
  if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
    raise ValueError(
      f"x {x.shape} and y {y.shape} must be [n, d] and [m, d], of one d"
    )
  _check_rows(min(len(x), len(y)), unbiased)
  _check_block(block_size)
  n, m = len(x), len(y)
  x, y = _whole(x), _whole(y)
  if kernel.relative:
    both = jnp.concatenate([x, y])[:, None]
    scale = median_distances(both, jnp.ones((n + m,), bool))
    x, y = x / scale, y / scale
  x, y = _centred(kernel, x, y)
  others = (n - 1, m - 1) if unbiased else (n, m)
  weights = jnp.array(
    [
      [2.0 / (n * others[0]), -2.0 / (n * m)],
      [-2.0 / (n * m), 2.0 / (m * others[1])],
    ],
    jnp.float32,
  )
  # Each sample fills whole blocks.
  fill = lambda v: jnp.pad(v, ((0, -len(v) % block_size), (0, 0)))
  x_filled, y_filled = fill(x), fill(y)
  row = jnp.arange(len(x_filled) + len(y_filled))
  counts = (row < n) | ((row >= len(x_filled)) & (row < len(x_filled) + m))
  value = pairs.weighted_sum(
    jnp.concatenate([x_filled, y_filled]),
    jnp.where(counts, row, -1)[None],
    (row[::block_size] >= len(x_filled)).astype(int),
    weights,
    kernel,
    block_size,
  )
  if not unbiased:
    value += sum(_with_itself(kernel, v).sum() / len(v) ** 2 for v in (x, y))
  return value


def dhsic(
  streams: jax.Array,
  kernel: Kernel = GaussianKernel(),
  *,
  valid: jax.Array | None = None,
  unbiased: bool = True,
  block_size: int = pairs.BLOCK,
) -> jax.Array:
  """The mean MMD^2 over all permutations, dHSIC (Pfister et al. 2018).

  Args:
    streams: rows [n, codebooks, d].
    kernel: k_s of each codebook's vectors; their product over the codebooks,
      summed over the scales s, is the kernel of a row.
    valid: bool [n], rows that count, or None: all of them.
    unbiased: leave out the pairs of a row with itself.
    block_size: rows in a block of the computation.

  Returns:
    Scalar float32, differentiable in the streams.

  Raises:
    ValueError: streams that are not [n, codebooks, d], or too few rows.
  """
  if streams.ndim != 3:
    raise ValueError(f"streams {streams.shape} must be [n, codebooks, d]")
  _check_rows(len(streams), unbiased)
  _check_block(block_size)
  z = _whole(streams)
  valid = jnp.ones((len(z),), bool) if valid is None else valid
  z = jnp.where(valid[:, None, None], z, 0.0)
  if kernel.relative:
    z = z / median_distances(z, valid)[:, None]
  (z,) = _centred(kernel, z)
  own = _with_itself(kernel, jnp.swapaxes(z, 0, 1))  # [scales, codebooks, n]
  return _dhsic(z, own, valid, kernel, unbiased, block_size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _dhsic(z, own, valid, kernel, unbiased, block):
  joint, single = pairs.product_sums(z, valid, kernel, block)
  return _closed_form(joint, single, own, valid, unbiased)


def _dhsic_forward(z, own, valid, kernel, unbiased, block):
  # The loss is linear in the joint sums, so its gradient takes the others only,
  # and the joint ones can come from the sweep that makes the gradient.
  single = pairs.single_sums(z, valid, kernel, block)
  of_sums = lambda *sums: _closed_form(*sums, valid, unbiased)
  _, pull = jax.vjp(of_sums, jnp.zeros_like(single[0, 0]), single, own)
  *weights, of_own = pull(jnp.float32(1.0))
  joint, gradient = pairs.product_gradient(z, valid, weights, kernel, block)
  return of_sums(joint, single, own), (gradient, of_own)


def _dhsic_backward(kernel, unbiased, block, kept, cotangent):
  gradient, of_own = kept
  return cotangent * gradient, cotangent * of_own, None


_dhsic.defvjp(_dhsic_forward, _dhsic_backward)


def _closed_form(joint, single, own, valid, unbiased):
  """DHSIC from the sums over all pairs.

  Args:
    joint: [n], of `pairs.product_sums`.
    single: [scales, codebooks, n], likewise.
    own: [scales, codebooks, n], what each row adds to its own sums.
    valid: bool [n].
    unbiased: leave that out.
  """
  if not unbiased:
    joint, single = joint + own.prod(1).sum(0), single + own
  count = jnp.maximum(valid.sum(), 1).astype(jnp.float32)
  others = jnp.maximum(count - 1, 1) if unbiased else count
  mean = lambda v: jnp.sum(jnp.where(valid, v, 0.0), -1) / count
  single = single / others
  means = mean(single)[..., None]  # [scales, codebooks, 1]
  # Differences row by row, so that rounding errors are averaged out; what is
  # first order in single - means has mean 0, but for the rounding of means.
  products = single.prod(1)
  product = means.prod(1)
  first = sum(
    (single[:, k] - means[:, k])
    * jnp.delete(means, k, axis=1, assume_unique_indices=True).prod(1)
    for k in range(single.shape[1])
  )
  return mean(joint / others - products.sum(0)) - mean(
    (products - product - first).sum(0)
  )


def independence_loss(
  streams: jax.Array,
  key: jax.Array,
  *,
  pattern: PatternMaker | None = None,
  kernel: Kernel = GaussianKernel(),
  estimator: str = "mmd",
  mask: jax.Array | None = None,
  standardize: bool = True,
  block_size: int = pairs.BLOCK,
) -> jax.Array:
  """How dependent the codebooks are that a language model predicts together.

  Under a mesh the rows are those of the global batch.

  Args:
    streams: [batch, frames, codebooks, dim], one vector for each code, such as
      `Quantized.streams`.
    key: of the permutations ("mmd").
    pattern: of the language model, `mmdcodec.patterns`; None means
      all codebooks of a frame ("parallel").
    kernel: of the paper by default.
    estimator: "mmd" or "dhsic", see above.
    mask: bool [batch, frames], False in padding; a row with a padded entry does
      not count.
    standardize: zero mean and unit variance for every coordinate over the rows,
      with gradient through both (as the paper's code does).
    block_size: rows in a block of the computation.

  Returns:
    Scalar float32. A pattern with several kinds of steps gives the mean over
    them, weighted by their rows; 0 if no two codes are ever predicted together.

  Raises:
    ValueError: an unknown estimator, or shapes that do not fit.
  """
  if estimator not in ESTIMATORS:
    raise ValueError(f"estimator is {estimator!r}; choose from {ESTIMATORS}")
  if streams.ndim != 4:
    raise ValueError(
      f"streams {streams.shape} must be [batch, frames, codebooks, dim]"
    )
  if mask is None:
    mask = jnp.ones(streams.shape[:2], bool)
  if mask.shape != streams.shape[:2]:
    raise ValueError(
      f"mask {mask.shape} must be {streams.shape[:2]}, one for each frame"
    )
  _check_block(block_size)
  total, count = jnp.float32(0.0), 0
  for group, (z, valid) in enumerate(rows_of(streams, mask, pattern)):
    if len(z) < 2:
      continue
    z = _standardized(z, valid) if standardize else _centred(kernel, z)[0]
    if estimator == "dhsic":
      value = dhsic(z, kernel, valid=valid, block_size=block_size)
    else:
      value = _permuted(
        z, valid, jax.random.fold_in(key, group), kernel, block_size
      )
    total, count = total + value * valid.sum(), count + valid.sum()
  return total / jnp.maximum(count, 1)


def rows_of(
  streams: jax.Array, mask: jax.Array, pattern: PatternMaker | None
) -> list[tuple[jax.Array, jax.Array]]:
  """What one step of the language model predicts together, as rows.

  Args:
    streams: [batch, frames, codebooks, dim].
    mask: bool [batch, frames].
    pattern: see `independence_loss`.

  Returns:
    (rows float32 [n, codebooks of that kind, dim], 0 where they do not count;
    bool [n], which count) for each kind of step that holds more than one code.
  """
  batch, frames, books, dim = streams.shape
  if pattern is None:
    groups = ((range(books), None),)
  else:
    made = pattern(frames)
    if made.codebooks != books:
      raise ValueError(
        f"the pattern has {made.codebooks} codebooks, the streams have {books}"
      )
    groups = made.groups
  found = []
  for held, at in groups:
    z, valid = streams, mask
    if at is not None:
      z = jnp.stack(
        [streams[:, _span(at[:, i]), k] for i, k in enumerate(held)], 2
      )
      valid = functools.reduce(
        jnp.logical_and, [mask[:, _span(column)] for column in at.T]
      )
    # Whatever stands in padding must not be multiplied, not even by 0.
    z = jnp.where(valid[..., None, None], z.astype(jnp.float32), 0.0)
    found.append((z.reshape(-1, len(held), dim), valid.reshape(-1)))
  return found


def _span(frames):
  """Frames of one codebook as an index: a slice, if they have no gap."""
  first, last = int(frames[0]), int(frames[-1])
  return slice(first, last + 1) if last - first + 1 == len(frames) else frames


def _standardized(z: jax.Array, valid: jax.Array) -> jax.Array:
  """Zero mean, unit variance of every [codebook, dim] over valid rows."""
  weight = valid.astype(z.dtype)[:, None, None]
  count = jnp.maximum(weight.sum(), 2.0)
  z = z - (weight * z).sum(0) / count
  variance = (weight * z * z).sum(0) / (count - 1)
  return z * jax.lax.rsqrt(variance + 1e-8)


def _permuted(
  z: jax.Array, valid: jax.Array, key: jax.Array, kernel: Kernel, block: int
) -> jax.Array:
  """MMD^2 of rows [n, codebooks, dim] and of those with permuted codebooks."""
  n, books, dim = z.shape
  z = _whole(z)
  if kernel.relative:
    z = z / median_distances(z, valid)[:, None]
  # For each codebook the valid rows in random order, then the others.
  draws = jax.random.uniform(key, (books, n), jnp.float32)
  order = jnp.argsort(jnp.where(valid, draws, 2.0), axis=1)

  # A permuted row is made of up to `books` rows and goes with none of them.
  count = valid.sum()
  slot = jnp.arange(n)
  own = jnp.broadcast_to(jnp.where(valid, slot, -1), (books, n))
  source = jnp.where(slot < count, order, -1)
  again = [
    functools.reduce(
      jnp.logical_or, [order[k] == o for o in order[:k]], jnp.zeros(n, bool)
    )
    for k in range(books)
  ]
  shared = sum(jnp.sum((slot < count) & ~a) for a in again)
  count = count.astype(jnp.float32)
  apart = count * count - shared
  # Two or three rows may leave nothing to compare.
  any_apart = (apart > 0).astype(jnp.float32)
  within = any_apart * 2.0 / jnp.maximum(count * (count - 1), 1)
  across = any_apart * -2.0 / jnp.maximum(apart, 1)

  # Each sample fills whole blocks.
  fill = lambda v: jnp.pad(v, ((0, -n % block), (0, 0)))
  fill_source = lambda s: jnp.pad(
    s, ((0, 0), (0, -n % block)), constant_values=-1
  )
  both = jnp.concatenate(
    [fill(z.reshape(n, -1)), fill(_reordered(z, order).reshape(n, -1))]
  )
  sources = jnp.concatenate([fill_source(own), fill_source(source)], 1)
  blocks = sources.shape[1] // block
  return pairs.weighted_sum(
    both,
    sources,
    jnp.arange(blocks) // (blocks // 2),
    jnp.array([[within, across], [across, within]]),
    kernel,
    block,
  )


@jax.custom_vjp
def _reordered(z: jax.Array, order: jax.Array) -> jax.Array:
  """Rows [n, codebooks, dim] in an order [codebooks, n] for each codebook.

  Its gradient reads in the inverse order, where that of indexing would scatter.
  """
  n, books, dim = z.shape
  entry = order.T * books + jnp.arange(books)
  return z.reshape(-1, dim)[entry.reshape(-1)].reshape(z.shape)


_reordered.defvjp(
  lambda z, order: (_reordered(z, order), order),
  lambda order, g: (_reordered(g, jnp.argsort(order, axis=1)), None),
)


def median_distances(z: jax.Array, valid: jax.Array) -> jax.Array:
  """Median distance of two rows, for each codebook (the median heuristic).

  Pairs of equal vectors, such as one code chosen twice, are left out. No
  gradient goes through it.

  Args:
    z: rows [n, codebooks, dim].
    valid: bool [n].

  Returns:
    [codebooks]; 1 where there are no two different vectors.
  """
  z = jax.lax.stop_gradient(z)
  count = jnp.maximum(valid.sum(), 1)
  order = jnp.argsort(~valid, stable=True)
  # Row i with the row half of all rows away: of another clip, mostly.
  pick = jnp.arange(min(len(z), _SAMPLE))
  picks = jnp.minimum(count, len(pick))
  first = pick * count // picks % count
  second = (first + count // 2) % count
  distance = jnp.linalg.norm(z[order[first]] - z[order[second]], axis=-1)
  # Rounding may tell equal vectors apart.
  counts = (pick < picks)[:, None] & (distance > 1e-5 * distance.max(0))
  distance = jnp.where(counts, distance, jnp.nan)
  return jnp.nan_to_num(jnp.nanmedian(distance, axis=0), nan=1.0)


def _with_itself(kernel: Kernel, z: jax.Array) -> jax.Array:
  """k_s(x, x) for vectors [..., dim]: [scales, ...]."""
  if kernel.of == "distance":
    return jnp.stack(kernel.values(jnp.zeros(z.shape[:-1], z.dtype)))
  return jnp.stack(kernel.values(jnp.mean(z * z, -1)))


def _centred(kernel: Kernel, *samples: jax.Array) -> tuple[jax.Array, ...]:
  """Samples less about their common mean.

  Distances stay as they are, and their rounding errors get smaller.
  """
  if kernel.of != "distance":
    return samples
  mean = sum(x.sum(0) for x in samples) / sum(len(x) for x in samples)
  return tuple(x - jax.lax.stop_gradient(mean) for x in samples)


def _whole(z: jax.Array) -> jax.Array:
  """float32, and all of it on every device of the mesh."""
  return rules.constrain(z.astype(jnp.float32), *(None,) * z.ndim)


def _check_rows(n: int, unbiased: bool) -> None:
  least = 2 if unbiased else 1
  if n < least:
    raise ValueError(f"there are {n} rows; at least {least} are needed")


def _check_block(block_size: int) -> None:
  if block_size < 1:
    raise ValueError(f"block_size is {block_size}; it must be at least 1")
