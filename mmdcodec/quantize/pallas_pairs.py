"""The tiles of `pairs.py` as Pallas kernels, for TPUs.

XLA computes a tile (all pairs of two blocks of rows) in one operation after the
other, each of which reads and writes arrays [block, block]. A Pallas kernel
walks over the tile in parts of `PART` x `PART` pairs, all of whose intermediate
results stay in the chip's vector memory: only the rows and what is added to
them go to and fro.

What is computed for a part is the function that computes a tile anywhere else,
given fewer rows, so the two cannot differ; Pallas only says where it runs. CPUs
and GPUs are given the function itself, and XLA compiles it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Rows in a part. A TPU's vectors have 128 lanes; with twice as many rows,
# compiling takes twice as long and the vector memory for three dozen arrays of
# pairs (dHSIC of four codebooks) gets short.
PART = 128
# Bytes of results that the vector memory has room for, twice (one is filled
# while the other is written out), beside the rest: 16 MiB is the limit.
_RESULTS = 4 * 2**20
# Of up to four dimensions `pairs` takes single columns, which v4 cannot read;
# five to seven were not tried there.
_LEAST_DIM = 8


def by_platform(tile: Callable) -> Callable:
  """The function that computes a tile on the platform it is compiled for.

  The choice falls when the program is lowered, so it is right too for a program
  that is compiled on a CPU for a TPU.

  Args:
    tile: (block a, block b, weight) -> (what a gets, what b gets), as for
      `tiled`, and right for any number of rows in a block.

  Returns:
    The same, as a kernel on TPUs, if its results fit into the vector memory (of
    512 rows, up to eight codebooks of 128), parts into its rows, and there are
    eight dimensions or more.
  """

  def choose(a, b, weight):
    z = a[0].z
    too_large = 2 * z.size * z.dtype.itemsize > _RESULTS
    if z.shape[1] % PART or too_large or z.shape[2] < _LEAST_DIM:
      return tile(a, b, weight)
    kernel = lambda a, b, weight: tiled(tile, a, b, weight, part=PART)
    return lax.platform_dependent(a, b, weight, tpu=kernel, default=tile)

  return choose


def tiled(
  tile: Callable,
  a: Any,
  b: Any,
  weight: jax.Array,
  *,
  part: int = PART,
  interpret: bool = False,
) -> tuple[Any, Any]:
  """`tile(a, b, weight)` as one Pallas kernel, part after part.

  Args:
    tile: its results must be sums over the rows of the other block.
    a: (`row_blocks.Blocks` of one block, anything). Arrays of the shape of z,
      [codebooks, rows, dim], have the rows in the middle, all others at the
      end. So have the results.
    b: the same of the other block, with as many rows.
    weight: scalar.
    part: rows of a part; must divide those of a block.
    interpret: run it without a TPU, slowly.

  Returns:
    What `tile` returns.
  """
  # Takes a second to import, and most programs have no need of it.
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import tpu as pltpu

  z = a[0].z
  rows = z.shape[1]
  given, tree = jax.tree.flatten((a, b))
  small = [_with_rows(x, z, part) for x in given]
  small_a, small_b = tree.unflatten(small)
  results, results_tree = jax.tree.flatten(
    jax.eval_shape(tile, small_a, small_b, weight)
  )
  axes = [_axis(x, small_a[0].z) for x in results]
  whole = [_with_rows(x, small_a[0].z, rows) for x in results]

  def kernel(weight, *refs):
    at = pl.program_id(0), pl.program_id(1)
    sums = refs[len(given) :]

    @pl.when((at[0] == 0) & (at[1] == 0))
    def _():
      for ref in sums:
        ref[...] = jnp.zeros_like(ref)

    values = [
      ref[...].reshape(x.shape)
      for ref, x in zip(refs[: len(given)], small, strict=True)
    ]
    found = jax.tree.leaves(tile(*tree.unflatten(values), weight[0]))
    for k, (ref, axis, x) in enumerate(zip(sums, axes, found, strict=True)):
      # The first half of the results is for a.
      first = pl.multiple_of(at[2 * k // len(sums)] * part, part)
      place = [slice(None)] * len(ref.shape)
      place[axis - x.ndim] = pl.ds(first, part)
      ref[tuple(place)] += _wide(x)

  def part_of(k, x):
    shape = _wide(x).shape
    axis = _axis(x, small_a[0].z) + len(shape) - x.ndim
    side = 2 * k // len(given)
    return pl.BlockSpec(
      shape,
      lambda *at: tuple(at[side] * (axis == n) for n in range(len(shape))),
    )

  found = pl.pallas_call(
    kernel,
    grid=(rows // part, rows // part),
    in_specs=[
      pl.BlockSpec(memory_space=pltpu.SMEM),
      *(part_of(k, x) for k, x in enumerate(small)),
    ],
    out_specs=[
      pl.BlockSpec(_wide(x).shape, lambda *at, n=_wide(x).ndim: (0,) * n)
      for x in whole
    ],
    out_shape=[_wide(x) for x in whole],
    interpret=interpret,
  )(jnp.reshape(weight, (1,)), *map(_wide, given))
  return results_tree.unflatten(
    [x.reshape(like.shape) for x, like in zip(found, whole, strict=True)]
  )


def _axis(x, z) -> int:
  """Which axis has the rows, see `tiled`."""
  return 1 if x.shape == z.shape else x.ndim - 1


def _with_rows(x, z, rows: int) -> jax.ShapeDtypeStruct:
  shape = list(x.shape)
  shape[_axis(x, z)] = rows
  return jax.ShapeDtypeStruct(tuple(shape), x.dtype)


def _wide(x):
  """A vector as a matrix of one row, which is how TPUs hold it."""
  if x.ndim > 1:
    return x
  if isinstance(x, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct((1, *x.shape), x.dtype)
  return x[None]
