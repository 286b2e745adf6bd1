"""Sums over all pairs of rows, tile by tile, with memory for rows only.

The losses of `independence.py` are sums over n^2 pairs of rows. Here the rows
are cut into blocks, and a sweep walks over the pairs of blocks (tiles): each
pair of rows is met once, and what it adds goes to both of its rows. Nothing of
the size n^2 is ever kept, and gradients are sweeps of their own that compute
the tiles anew, so memory is O(n d), and block^2 for each scale and codebook.

Under a mesh every device holds all rows (24 MB for the 11,776 rows of 512 of
arXiv 2406.02315), walks over its share of the tiles, and the sums are added up
at the end. By count, not measured: on 16 chips of TPU v5e those 24 MB cross the
links in a tenth of a millisecond (200 GB/s, as published), and a chip's share
of the products, 53 GFLOP in float32 of six passes, takes more than one. A ring
that sends blocks around could hide that tenth at most.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from mmdcodec.quantize import pallas_pairs, row_blocks
from mmdcodec.quantize.kernels import Kernel
from mmdcodec.quantize.row_blocks import Blocks

BLOCK = 512
# Below this share of |x|^2 + |y|^2, |x - y|^2 is rounding error: equal rows.
_ROUNDING = 1e-6
# Dimensions that are summed in one go.
_PART = 512
# Up to so many dimensions differences are as fast as a matrix product.
_NARROW = 4


def product_sums(
  z: jax.Array, valid: jax.Array, kernel: Kernel, block: int = BLOCK
) -> tuple[jax.Array, jax.Array]:
  """Sums over the other rows, of the product and of each codebook's kernel.

  Args:
    z: float32 [n, codebooks, dim].
    valid: bool [n], rows that count.
    kernel: k = sum_s k_s.
    block: rows in a block.

  Returns:
    joint [n], sum_{j != i} sum_s prod_k k_s(z_i^k, z_j^k), and single
    [scales, codebooks, n], sum_{j != i} k_s(z_i^k, z_j^k). Without meaning for
    rows that do not count.
  """

  def tile(a, b, weight, live):
    u, terms = _terms(kernel, a[0], b[0], live)
    joint = _joint(kernel, a[0], u, terms)[0]
    for_a, for_b = (
      (weight * _sum(joint, axis), weight * _single(terms, axis))
      for axis in (1, 0)
    )
    return for_a, for_b

  blocks = row_blocks.cut(z, row_blocks.own_source(valid), block)
  zeros = _no_joint(blocks), _no_single(blocks, kernel)
  joint, single = sweep(tile, (blocks, ()), zeros)
  return row_blocks.joined(joint, len(z)), row_blocks.joined(single, len(z))


def single_sums(
  z: jax.Array, valid: jax.Array, kernel: Kernel, block: int = BLOCK
) -> jax.Array:
  """The second result of `product_sums` alone, which costs less.

  Args:
    z: see there, as `valid`, `kernel` and `block`.
    valid: see there.
    kernel: see there.
    block: see there.

  Returns:
    single [scales, codebooks, n].
  """

  def tile(a, b, weight, live):
    terms = _terms(kernel, a[0], b[0], live)[1]
    for_a, for_b = (weight * _single(terms, axis) for axis in (1, 0))
    return for_a, for_b

  blocks = row_blocks.cut(z, row_blocks.own_source(valid), block)
  single = sweep(tile, (blocks, ()), _no_single(blocks, kernel))
  return row_blocks.joined(single, len(z))


def product_gradient(
  z: jax.Array,
  valid: jax.Array,
  weights: tuple[jax.Array, jax.Array],
  kernel: Kernel,
  block: int = BLOCK,
) -> tuple[jax.Array, jax.Array]:
  """The first result of `product_sums`, and the gradient of both in z.

  Args:
    z: see there, as `valid`, `kernel` and `block`.
    valid: see there.
    weights: gradients in the two results, [n] and [scales, codebooks, n].
    kernel: see there.
    block: see there.

  Returns:
    joint [n] and the gradient [n, codebooks, dim].
  """
  blocks = row_blocks.cut(z, row_blocks.own_source(valid), block)
  weights = jax.tree.map(
    lambda g: row_blocks.split(jnp.where(valid, g, 0.0), block), weights
  )

  def tile(a, b, weight, live):
    (a, (joint_a, single_a)), (b, (joint_b, single_b)) = a, b
    u, terms = _terms(kernel, a, b, live)
    joint, w = _joint(kernel, a, u, terms)
    w = (joint_a[:, None] + joint_b[None]) * w
    for s, slope in enumerate(terms[1]):
      w += (single_a[s][:, :, None] + single_b[s][:, None]) * slope
    w = jnp.where(_apart(kernel, u, live), weight * w, 0.0)
    for_a, for_b = _pull(kernel, w, a.z, b.z)
    return (
      (weight * _sum(joint, 1), for_a),
      (weight * _sum(joint, 0), for_b),
    )

  zeros = _no_joint(blocks), jnp.zeros_like(blocks.z)
  joint, gradient = sweep(tile, (blocks, weights), zeros)
  gradient = jnp.swapaxes(gradient, 1, 2)  # [blocks, block, codebooks, dim]
  gradient = gradient.reshape(-1, *z.shape[1:])[: len(z)]
  return row_blocks.joined(joint, len(z)), gradient


def _terms(kernel: Kernel, a: Blocks, b: Blocks, live: jax.Array):
  """What the kernel takes, and its values and slopes, of every codebook."""
  u = _numbers(kernel, a, b, live)
  return u, kernel.terms(kernel.roots(u))


def _single(terms: tuple, axis: int) -> jax.Array:
  """Sums [scales, codebooks, block] of each codebook's values."""
  return jnp.stack([_sum(value, axis) for value in terms[0]])


def _no_joint(blocks: Blocks) -> jax.Array:
  """Zeros [blocks, block]."""
  return jnp.zeros(blocks.square.shape[::2], jnp.float32)


def _no_single(blocks: Blocks, kernel: Kernel) -> jax.Array:
  """Zeros [blocks, scales, codebooks, block]."""
  count, books, size = blocks.square.shape
  return jnp.zeros((count, kernel.scales, books, size), jnp.float32)


def weighted_sum(
  z: jax.Array,
  source: jax.Array,
  group: jax.Array,
  weights: jax.Array,
  kernel: Kernel,
  block: int = BLOCK,
) -> jax.Array:
  """Sum over the pairs of rows that count, each pair once, of w k(z_i, z_j).

  Differentiable in z. The weights are known beforehand, so value and gradient
  come from the same sweep.

  Args:
    z: float32 [n, dim], n a multiple of the block.
    source: int32 [sources, n], see `Blocks`.
    group: int [n / block], group of the rows of each block.
    weights: [groups, groups], symmetric: w of a pair of rows of two groups; not
      differentiated.
    kernel: k, of whole rows.
    block: rows in a block.

  Returns:
    Scalar.
  """
  weights = lax.stop_gradient(weights)[group[:, None], group[None]]
  return _weighted_sum(z, source, weights, kernel, block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _weighted_sum(z, source, weights, kernel, block):
  return _weighted_sums(z, source, weights, kernel, block, gradient=False)[0]


def _weighted_sums(z, source, weights, kernel, block, *, gradient):
  def tile(a, b, weight, live):
    (a, _), (b, _) = a, b
    u, (values, slopes) = _terms(kernel, a, b, live)
    value = sum(values)[0]
    # A half for each row: rounding errors of the rows are independent.
    sums = [0.5 * weight * _sum(value, axis) for axis in (1, 0)]
    if not gradient:
      return (sums[0],), (sums[1],)
    w = jnp.where(_apart(kernel, u, live), weight * sum(slopes), 0.0)
    for_a, for_b = _pull(kernel, w, a.z, b.z)
    return (sums[0], for_a), (sums[1], for_b)

  # One codebook, and no copy as `row_blocks.cut` would make one.
  z = z.reshape(-1, 1, block, z.shape[-1])
  blocks = Blocks(z, jnp.sum(z * z, -1), row_blocks.split(source, block))
  zeros = (_no_joint(blocks),)
  if gradient:
    zeros += (jnp.zeros_like(blocks.z),)
  sums, *gradients = sweep(tile, (blocks, ()), zeros, weights)
  return sums.sum(), *(g.reshape(-1, g.shape[-1]) for g in gradients)


def _weighted_sum_forward(z, source, weights, kernel, block):
  value, gradient = _weighted_sums(
    z, source, weights, kernel, block, gradient=True
  )
  return value, (gradient, weights)


def _weighted_sum_backward(kernel, block, kept, cotangent):
  gradient, weights = kept
  return cotangent * gradient, None, jnp.zeros_like(weights)


_weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)


def sweep(
  tile: Callable, blocks: Any, zeros: Any, weights: jax.Array | None = None
) -> Any:
  """Adds up what the tiles give to their blocks.

  Args:
    tile: (block a, block b, weight, live [block, block]) -> (what a gets, what
      b gets).
    blocks: (Blocks, anything): arrays [blocks, ...].
    zeros: arrays [blocks, ...] to add to.
    weights: symmetric [blocks, blocks], or None: all 1. A tile on the diagonal
      meets each of its pairs twice and gets half of its weight.

  Returns:
    Sums, like `zeros`.
  """
  count = len(blocks[0].z)
  meet = pallas_pairs.by_platform(
    lambda a, b, weight: tile(a, b, weight, _live(a[0].source, b[0].source))
  )
  if weights is None:
    weights = jnp.ones((count, count), jnp.float32)

  def walk(first, stride, blocks, sums, weights):
    at = lambda i: jax.tree.map(
      lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), blocks
    )

    # Tiles are numbered row by row; this walk takes every `stride`-th. Within a
    # row what block i gets is kept apart: two changes of one array in a step
    # would make XLA copy all of it.
    def row(i, sums):
      a = at(i)
      start = i + (first - (i * count - i * (i - 1) // 2)) % stride

      def column(m, carry):
        # Block b comes with the carry: sliced here, XLA on CPUs would put the
        # slicing into the innermost loops, which then do not vectorize.
        mine, sums, b = carry
        j = start + m * stride
        weight = weights[i, j] * jnp.where(i == j, 0.5, 1.0)
        for_a, for_b = meet(a, b, weight)
        after = at(jnp.minimum(j + stride, count - 1))
        return jax.tree.map(jnp.add, mine, for_a), _add(sums, j, for_b), after

      mine = jax.tree.map(lambda s: jnp.zeros(s.shape[1:], s.dtype), sums)
      left = jnp.maximum(count - start + stride - 1, 0) // stride
      carry = (mine, sums, at(jnp.minimum(start, count - 1)))
      mine, sums, _ = lax.fori_loop(0, left, column, carry)
      return _add(sums, i, mine)

    return lax.fori_loop(0, count, row, sums)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return walk(0, 1, blocks, zeros, weights)

  def share(*arrays):
    return lax.psum(
      walk(lax.axis_index(mesh.axis_names), mesh.size, *arrays), mesh.axis_names
    )

  # Every device gets everything, and has what all of them found.
  everything = PartitionSpec()
  return jax.shard_map(
    share,
    in_specs=everything,
    out_specs=everything,
    # Sums start as zeros that are equal everywhere and end otherwise.
    check_vma=False,
  )(blocks, zeros, weights)


def _add(sums: Any, at: jax.Array, more: Any) -> Any:
  """Adds to one block."""

  def one(s, m):
    now = lax.dynamic_index_in_dim(s, at, keepdims=False)
    return lax.dynamic_update_index_in_dim(s, now + m, at, 0)

  return jax.tree.map(one, sums, more)


def _live(a: jax.Array, b: jax.Array) -> jax.Array:
  """Pairs that count, bool [block, block], from sources [sources, block]."""
  live = (a[0][:, None] >= 0) & (b[0][None] >= 0)
  for one, other in zip(a, b, strict=True):
    live &= one[:, None] != other[None]
  return live


def _numbers(
  kernel: Kernel, a: Blocks, b: Blocks, live: jax.Array
) -> jax.Array:
  """What the kernel takes, for all pairs: [codebooks, block, block]."""
  x, y = a.z, b.z
  dim = x.shape[-1]

  def numbers():
    if kernel.of == "product":
      u = _times(x, y, (2, 2)) / dim
    elif dim <= _NARROW:
      u = sum(d * d for d in _differences(x, y))
    else:
      size = a.square[:, :, None] + b.square[:, None]
      # In parts: rounding errors of a long sum would hide that rows are equal.
      u = size - 2.0 * sum(
        _times(x[..., i : i + _PART], y[..., i : i + _PART], (2, 2))
        for i in range(0, dim, _PART)
      )
      u = jnp.where(u < _ROUNDING * size, 0.0, u)
    return jnp.where(live, u, kernel.nowhere)

  return _stored(numbers, a, kernel.nowhere)


def _differences(x: jax.Array, y: jax.Array) -> list[jax.Array]:
  """Of each coordinate, for all pairs: [codebooks, block, block]."""
  return [x[:, :, None, i] - y[:, None, :, i] for i in range(x.shape[-1])]


def _stored(compute: Callable, a: Blocks, otherwise: float) -> jax.Array:
  """compute(), as an array that is kept until it has been read.

  XLA on CPUs puts cheap arithmetic into every loop that reads its result, so
  distances would be worked out anew for each of the radii; optimization
  barriers are gone before it does so. It does not look into conditionals.

  Args:
    compute: gives an array, without meaning where no row of a counts.
    a: a block of the tile.
    otherwise: fills the array then.
  """

  def choose():
    shape = jax.eval_shape(compute)
    nothing = lambda: jnp.full(shape.shape, otherwise, shape.dtype)
    return lax.cond((a.source >= 0).any(), compute, nothing)

  return lax.platform_dependent(cpu=choose, default=compute)


def _joint(
  kernel: Kernel, a: Blocks, u: jax.Array, terms: tuple
) -> tuple[jax.Array, jax.Array]:
  """K = sum_s prod_k k_s(u_k), and its derivative in each u_k.

  Returns:
    [block, block], and [codebooks or 1, block, block].
  """
  if kernel.multiplies:
    # Few exponentials more, but XLA keeps those, where it would multiply all
    # codebooks' values again in every loop that reads a product of them.
    values, slopes = kernel.terms(
      kernel.roots(_stored(lambda: sum(u), a, kernel.nowhere))
    )
    return sum(values), sum(slopes)[None]
  total, pulls = 0.0, 0.0
  for value, slope in zip(*terms, strict=True):
    product, others = _leave_one_out(list(value))
    total += product
    pulls += jnp.stack(others) * slope
  return total, pulls


def _leave_one_out(factors: list) -> tuple[jax.Array, list]:
  """The product of all, and for each the product of the others."""
  before, after = [1.0], [1.0]
  for factor in factors[:-1]:
    before.append(before[-1] * factor)
  for factor in factors[:0:-1]:
    after.append(after[-1] * factor)
  others = [b * a for b, a in zip(before, reversed(after), strict=True)]
  return before[-1] * factors[-1], others


def _apart(kernel: Kernel, u: jax.Array, live: jax.Array) -> jax.Array:
  """Pairs that have a gradient: bool, broadcasting with u.

  Equal rows have none, but under a narrow kernel the largest slope, the
  rounding errors of which would be larger than all the rest.
  """
  return live & (u > 0) if kernel.of == "distance" else live


def _pull(
  kernel: Kernel, w: jax.Array, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Gradients in x and y of sum_kij w_kij u_kij, with u as in `_numbers`.

  Args:
    kernel: of u.
    w: [codebooks, block, block].
    x: [codebooks, block, dim], as y.
    y: the other block.
  """
  if kernel.of == "product":
    scale = 1.0 / x.shape[-1]
    return scale * _times(w, y, (2, 1)), scale * _times(w, x, (1, 1))
  if x.shape[-1] <= _NARROW:
    # Of two near rows the difference counts, which a product would round off.
    apart = [2.0 * w * difference for difference in _differences(x, y)]
    return (
      jnp.stack([_sum(a, 1) for a in apart], -1),
      jnp.stack([-_sum(a, 0) for a in apart], -1),
    )

  def sums(keep):
    x_turned = keep(jnp.swapaxes(x, 1, 2))
    return keep(
      (w.sum(2), w.sum(1), _times(w, y, (2, 1)), _times(x_turned, w, (2, 1)))
    )

  # XLA on CPUs has a fast matrix product, but not for a first factor that is
  # turned. Barriers keep it from turning factors and products back: that is
  # done before barriers are dropped, unlike the fusing that `_stored` prevents.
  rows, columns, for_x, for_y = lax.platform_dependent(
    cpu=lambda: sums(lax.optimization_barrier),
    default=lambda: sums(lambda x: x),
  )
  return (
    2.0 * (rows[..., None] * x - for_x),
    2.0 * (columns[..., None] * y - jnp.swapaxes(for_y, 1, 2)),
  )


def _sum(x: jax.Array, axis: int) -> jax.Array:
  """Sums of matrices [..., rows, columns]: over rows (axis 0) or columns (1).

  In a TPU kernel the sums of columns lie as they are stored, those of rows do
  not, and v4 cannot turn them. For XLA it makes no difference.
  """
  return (jnp.swapaxes(x, -1, -2) if axis else x).sum(-2)


def _times(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
  """Products of two matrices for each codebook, in full float32 on TPUs too."""
  dims = (((contract[0],), (contract[1],)), ((0,), (0,)))
  return lax.dot_general(a, b, dims, precision=lax.Precision.HIGHEST)
