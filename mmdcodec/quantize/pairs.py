"""Sums over all pairs of rows, with memory proportional to the rows.

The losses of `independence.py` are sums over n^2 pairs of rows. Here the rows
are cut into blocks (`row_blocks.py`), and a sweep (`sweep.py`) walks over the
pairs of blocks, the tiles (`tiles.py`). It visits each pair of rows once and
adds its contribution to both rows. Nothing of size n^2 is ever stored.
Gradients are separate sweeps that recompute the tiles, so memory is
O(n d), plus block^2 for each scale and codebook.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmdcodec import platform
from mmdcodec.parallel import mapped
from mmdcodec.parallel.mapped import AxisName
from mmdcodec.quantize import derivatives, row_blocks, tiles
from mmdcodec.quantize.kernels import Kernel
from mmdcodec.quantize.row_blocks import Blocks
from mmdcodec.quantize.sweep import sweep

BLOCK = 512
# Of float32 [codebooks, block, block] on GPUs; see `block_for`.
_GPU_ARRAY = 16 * 2**20
# Tiles that each of several devices gets at least, so that their shares differ
# by an eighth at most.
_TILES = 8


def block_for(rows: int, codebooks: int, axis_name: AxisName = None) -> int:
  """Rows in a block where nobody chose.

  512 on CPUs, whose caches hold an array of such a tile, and on TPUs, whose
  kernel walks through a tile anyway.

  On GPUs every turn of the loop over tiles starts some two dozen kernels, one
  after the other, at some 4 us each. An H200 took 80 to 90 us for each tile of
  512 rows (8192 rows of 4 x 128, 528 tiles of MMD, twice 136 of dHSIC), of
  which operations and bytes explain 15 to 30. So tiles are larger there: 2048
  rows for MMD, 1024 for dHSIC of 4 codebooks, which leaves 36 tiles of either.
  An array of all pairs then takes 16 MiB, of which the L2 cache of a large GPU
  holds a few; larger ones would go to memory and back in each kernel. By these
  numbers MMD should take a quarter of the time, dHSIC a third. No GPU has
  confirmed that yet.

  Args:
    rows: number of rows.
    codebooks: vectors of a row that have distances of their own.
    axis_name: see `sweep`.
  """
  if platform.traced_for() != "gpu":
    return BLOCK
  mesh = jax.sharding.get_abstract_mesh()
  devices = max(math.prod(mesh.shape.values()), mapped.size(axis_name))
  block = 4 * BLOCK
  while block > BLOCK:
    count = -(-rows // block)
    enough = devices == 1 or count * (count + 1) // 2 >= _TILES * devices
    if 4 * codebooks * block**2 <= _GPU_ARRAY and enough:
      break
    block //= 2
  # Blocks of equal size, with little padding.
  count = max(-(-rows // block), 1)
  return max(-(-rows // (count * 128)), 1) * 128


def product_sums(
  z: jax.Array,
  valid: jax.Array,
  kernel: Kernel,
  block: int = BLOCK,
  axis_name: AxisName = None,
) -> tuple[jax.Array, jax.Array]:
  """Sums over the other rows, of the product and of each codebook's kernel.

  Args:
    z: float32 [n, codebooks, dim].
    valid: bool [n], rows that count.
    kernel: k = sum_s k_s.
    block: rows in a block.
    axis_name: mapped axes whose devices all hold these rows; see `sweep`.

  Returns:
    joint [n], sum_{j != i} sum_s prod_k k_s(z_i^k, z_j^k), and single
    [scales, codebooks, n], sum_{j != i} k_s(z_i^k, z_j^k). Both are meaningless
    for rows that do not count.
  """

  def tile(a: tuple, b: tuple, weight: jax.Array, live: jax.Array) -> tuple:
    u, terms = tiles.terms(kernel, a[0], b[0], live)
    joint = tiles.joint(kernel, a[0], u, terms)[0]
    return tuple(
      (weight * tiles.pair_sum(joint, axis), weight * _single(terms, axis))
      for axis in (1, 0)
    )

  blocks = row_blocks.cut(z, row_blocks.own_source(valid), block)
  zeros = _no_joint(blocks), _no_single(blocks, kernel)
  joint, single = sweep(tile, (blocks, ()), zeros, axis_name=axis_name)
  return row_blocks.joined(joint, len(z)), row_blocks.joined(single, len(z))


def single_sums(
  z: jax.Array,
  valid: jax.Array,
  kernel: Kernel,
  block: int = BLOCK,
  axis_name: AxisName = None,
) -> jax.Array:
  """Only the second result of `product_sums`, at a lower cost.

  Args:
    z: float32 [n, codebooks, dim].
    valid: bool [n], rows that count.
    kernel: k = sum_s k_s.
    block: rows in a block.
    axis_name: mapped axes whose devices all hold these rows; see `sweep`.

  Returns:
    single [scales, codebooks, n].
  """

  def tile(a: tuple, b: tuple, weight: jax.Array, live: jax.Array) -> tuple:
    terms = tiles.terms(kernel, a[0], b[0], live)[1]
    return tuple(weight * _single(terms, axis) for axis in (1, 0))

  blocks = row_blocks.cut(z, row_blocks.own_source(valid), block)
  zeros = _no_single(blocks, kernel)
  single = sweep(tile, (blocks, ()), zeros, axis_name=axis_name)
  return row_blocks.joined(single, len(z))


def product_gradient(
  z: jax.Array,
  valid: jax.Array,
  weights: tuple[jax.Array, jax.Array],
  kernel: Kernel,
  block: int = BLOCK,
  axis_name: AxisName = None,
) -> tuple[jax.Array, jax.Array]:
  """The first result of `product_sums`, and the gradient with respect to z.

  Args:
    z: float32 [n, codebooks, dim].
    valid: bool [n], rows that count.
    weights: cotangents of the two results, [n] and [scales, codebooks, n].
    kernel: k = sum_s k_s.
    block: rows in a block.
    axis_name: mapped axes whose devices all hold these rows; see `sweep`.

  Returns:
    joint [n] and the gradient [n, codebooks, dim].
  """
  blocks = row_blocks.cut(z, row_blocks.own_source(valid), block)
  weights = jax.tree.map(
    lambda g: row_blocks.split(jnp.where(valid, g, 0.0), block), weights
  )

  def tile(a: tuple, b: tuple, weight: jax.Array, live: jax.Array) -> tuple:
    (a, (joint_a, single_a)), (b, (joint_b, single_b)) = a, b
    u, terms = tiles.terms(kernel, a, b, live)
    joint, w = tiles.joint(kernel, a, u, terms)
    w = (joint_a[:, None] + joint_b[None]) * w
    for s, slope in enumerate(terms[1]):
      w += (single_a[s][:, :, None] + single_b[s][:, None]) * slope
    w = jnp.where(tiles.differ(kernel, u, live), weight * w, 0.0)
    for_a, for_b = tiles.gradients(kernel, w, a.z, b.z)
    return (
      (weight * tiles.pair_sum(joint, 1), for_a),
      (weight * tiles.pair_sum(joint, 0), for_b),
    )

  zeros = _no_joint(blocks), jnp.zeros_like(blocks.z)
  joint, gradient = sweep(tile, (blocks, weights), zeros, axis_name=axis_name)
  gradient = jnp.swapaxes(gradient, 1, 2)  # [blocks, block, codebooks, dim]
  gradient = gradient.reshape(-1, *z.shape[1:])[: len(z)]
  return row_blocks.joined(joint, len(z)), gradient


def _single(terms: tiles.Terms, axis: int) -> jax.Array:
  """Sums [scales, codebooks, block] of each codebook's values."""
  return jnp.stack([tiles.pair_sum(value, axis) for value in terms[0]])


def _no_joint(blocks: Blocks) -> jax.Array:
  """Zeros [blocks, block]."""
  return jnp.zeros(blocks.square.shape[::2], jnp.float32)


def _no_single(blocks: Blocks, kernel: Kernel) -> jax.Array:
  """Zeros [blocks, scales, codebooks, block]."""
  count, books, size = blocks.square.shape
  return jnp.zeros((count, kernel.scales, books, size), jnp.float32)


def weighted_sum(
  samples: Sequence[tuple[jax.Array, jax.Array]],
  weights: jax.Array,
  kernel: Kernel,
  block: int = BLOCK,
  axis_name: AxisName = None,
) -> jax.Array:
  """Sum of w k(z_i, z_j) over the pairs of rows that count, each pair once.

  Differentiable with respect to z. The weights are known beforehand, so value
  and gradient come from the same sweep.

  Args:
    samples: rows float32 [n, dim], and int32 [sources, n], the rows that each
      was made of, -1 for one that does not count. Rows with a common source are
      not a pair, in one sample or in two.
    weights: [samples, samples], symmetric: w of pairs of rows from two samples.
      No gradient goes through them.
    kernel: k of whole rows.
    block: rows in a block.
    axis_name: mapped axes whose devices all hold these rows; see `sweep`.

  Returns:
    Scalar.
  """
  # Each sample fills whole blocks.
  room = [(0, -len(z) % block) for z, _ in samples]
  both = list(zip(samples, room, strict=True))
  z = jnp.concatenate([jnp.pad(z, (more, (0, 0))) for (z, _), more in both])
  source = jnp.concatenate(
    [
      jnp.pad(source, ((0, 0), more), constant_values=-1)
      for (_, source), more in both
    ],
    axis=1,
  )
  sample = np.repeat(
    np.arange(len(samples)), [-(-len(z) // block) for z, _ in samples]
  )
  weights = lax.stop_gradient(weights)[sample[:, None], sample]
  return _weighted_sum(z, source, weights, kernel, block, axis_name)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def _weighted_sum(
  z: jax.Array,
  source: jax.Array,
  weights: jax.Array,
  kernel: Kernel,
  block: int,
  axis_name: AxisName,
) -> jax.Array:
  return _weighted_sums(
    z, source, weights, kernel, block, axis_name, gradient=False
  )[0]


def _weighted_sums(
  z: jax.Array,
  source: jax.Array,
  weights: jax.Array,
  kernel: Kernel,
  block: int,
  axis_name: AxisName,
  *,
  gradient: bool,
) -> tuple[jax.Array, ...]:
  """The value, and with `gradient` also the gradient with respect to z."""

  def tile(a: tuple, b: tuple, weight: jax.Array, live: jax.Array) -> tuple:
    (a, _), (b, _) = a, b
    u, (values, slopes) = tiles.terms(kernel, a, b, live)
    total: Any = sum(values)
    value = total[0]
    # A half for each row: rounding errors of the rows are independent.
    sums = [0.5 * weight * tiles.pair_sum(value, axis) for axis in (1, 0)]
    if not gradient:
      return (sums[0],), (sums[1],)
    w = jnp.where(tiles.differ(kernel, u, live), weight * sum(slopes), 0.0)
    for_a, for_b = tiles.gradients(kernel, w, a.z, b.z)
    return (sums[0], for_a), (sums[1], for_b)

  # One codebook. `row_blocks.cut` would make a copy.
  z = z.reshape(-1, 1, block, z.shape[-1])
  blocks = Blocks(z, jnp.sum(z * z, -1), row_blocks.split(source, block))
  zeros: tuple[jax.Array, ...] = (_no_joint(blocks),)
  if gradient:
    zeros += (jnp.zeros_like(blocks.z),)
  sums, *gradients = sweep(tile, (blocks, ()), zeros, weights, axis_name)
  return sums.sum(), *(g.reshape(-1, g.shape[-1]) for g in gradients)


@_weighted_sum.defjvp
def _weighted_sum_jvp(
  kernel: Kernel,
  block: int,
  axis_name: AxisName,
  primals: tuple[jax.Array, ...],
  tangents: tuple[jax.Array, ...],
) -> tuple[jax.Array, jax.Array]:
  z, source, weights = primals
  value, gradient = _weighted_sums(
    z, source, weights, kernel, block, axis_name, gradient=True
  )
  gradient = derivatives.forward_only(gradient)
  return value, jnp.sum(gradient * tangents[0])
