"""A sweep over the tiles: all pairs of blocks of rows, each pair once.

Under a mesh every device holds all rows (24 MB for the 11,776 rows of 512 of
arXiv 2406.02315), walks over its share of the tiles, and adds up the sums at
the end. An estimate, not a measurement: on 16 chips of TPU v5e those 24 MB
cross the links in a tenth of a millisecond (200 GB/s, as published), while a
chip's share of the products, 53 GFLOP in float32 of six passes, takes more than
one millisecond. Passing blocks around a ring could hide that tenth at most.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from mmdcodec.parallel import mapped
from mmdcodec.parallel.mapped import AxisName
from mmdcodec.quantize import pallas_pairs


def sweep(
  tile: Callable,
  blocks: Any,
  zeros: Any,
  weights: jax.Array | None = None,
  axis_name: AxisName = None,
) -> Any:
  """Adds up what the tiles contribute to their blocks.

  Args:
    tile: (block a, block b, weight, live [block, block]) -> (contribution to a,
      contribution to b).
    blocks: (Blocks, any other arrays): arrays [blocks, ...].
    zeros: arrays [blocks, ...], the initial sums.
    weights: symmetric [blocks, blocks]; None means 1 everywhere. A tile on the
      diagonal covers each of its pairs twice, so its weight is halved.
    axis_name: mapped axes whose devices all hold these blocks.

  Returns:
    The sums, shaped like `zeros`.

  Raises:
    UserError: the caller may see the rows of one device only.
  """
  mapped.check_global("an independence loss", axis_name, takes_name=True)
  count = len(blocks[0].z)
  meet = pallas_pairs.by_platform(
    lambda a, b, weight: tile(a, b, weight, _live(a[0].source, b[0].source))
  )
  if weights is None:
    weights = jnp.ones((count, count), jnp.float32)

  def walk(
    first: int | jax.Array,
    stride: int,
    blocks: Any,
    sums: Any,
    weights: jax.Array,
  ) -> Any:
    at = lambda i: jax.tree.map(
      lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), blocks
    )

    # Tiles are numbered row by row; this walk takes every `stride`-th. Within a
    # row the sums of block i are separate: two updates of one array in a step
    # would make XLA copy all of it.
    def row(i: jax.Array, sums: Any) -> Any:
      a = at(i)
      start = i + (first - (i * count - i * (i - 1) // 2)) % stride

      def column(m: jax.Array, carry: tuple[Any, Any, Any]) -> Any:
        # Block b is part of the carry. XLA on CPUs would put a slice taken here
        # into the innermost loops, which then do not vectorize.
        mine, sums, b = carry
        j = start + m * stride
        weight = weights[i, j] * jnp.where(i == j, 0.5, 1.0)
        for_a, for_b = meet(a, b, weight)
        after = at(jnp.minimum(j + stride, count - 1))
        return jax.tree.map(jnp.add, mine, for_a), _add(sums, j, for_b), after

      mine = jax.tree.map(lambda s: jnp.zeros(s.shape[1:], s.dtype), sums)
      mine = mapped.varying_like(mine, blocks[0].z)
      left = jnp.maximum(count - start + stride - 1, 0) // stride
      carry = (mine, sums, at(jnp.minimum(start, count - 1)))
      mine, sums, _ = lax.fori_loop(0, left, column, carry)
      return _add(sums, i, mine)

    return lax.fori_loop(0, count, row, sums)

  def share(names: str | tuple[str, ...], *arrays: Any) -> Any:
    sums = walk(lax.axis_index(names), lax.axis_size(names), *arrays)
    return lax.psum(sums, names)

  if axis_name is not None:
    like = blocks[0].z
    arrays = mapped.varying_like((blocks, zeros, weights), like)
    return mapped.varying_like(share(axis_name, *arrays), like)
  mesh = jax.sharding.get_abstract_mesh()
  axes = tuple(n for n in mesh.axis_names if n not in mesh.manual_axes)
  if math.prod(mesh.shape[n] for n in axes) == 1:
    return walk(0, 1, blocks, zeros, weights)

  # Every device gets all rows and ends up with the total.
  everything = PartitionSpec()
  return jax.shard_map(
    functools.partial(share, axes),
    axis_names=set(axes),
    in_specs=everything,
    out_specs=everything,
    # The sums start equal on all devices and then differ.
    check_vma=False,
  )(blocks, zeros, weights)


def _add(sums: Any, at: jax.Array, more: Any) -> Any:
  """Adds to one block."""

  def one(s: jax.Array, m: jax.Array) -> jax.Array:
    now = lax.dynamic_index_in_dim(s, at, keepdims=False)
    return lax.dynamic_update_index_in_dim(s, now + m, at, 0)

  return jax.tree.map(one, sums, more)


def _live(a: jax.Array, b: jax.Array) -> jax.Array:
  """Pairs that count, bool [block, block], from sources [sources, block]."""
  live = (a[0][:, None] >= 0) & (b[0][None] >= 0)
  for one, other in zip(a, b, strict=True):
    live &= one[:, None] != other[None]
  return live
