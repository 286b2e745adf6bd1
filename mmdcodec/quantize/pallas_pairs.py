"""The tiles of `pairs.py` as Pallas kernels, for TPUs.

XLA computes a tile (all pairs of two blocks of rows) as a series of operations,
each of which reads and writes arrays [block, block]. A Pallas kernel walks over
the tile in parts of `PART` x `PART` pairs and keeps all intermediate results of
a part in the chip's vector memory. Only the rows and their sums are read and
written.

The kernel calls the same function on a part, with fewer rows, that computes a
whole tile on other platforms, so the two cannot differ. On CPUs and GPUs, XLA
compiles that function itself.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec.parallel import mapped

# Rows in a part. A TPU's vectors have 128 lanes. With twice as many rows,
# compiling takes twice as long, and three dozen arrays of pairs (dHSIC of four
# codebooks) hardly fit into the vector memory.
PART = 128
# Bytes of results that fit into the vector memory (16 MiB) besides the rest.
# They need twice the space: one copy is filled while the other is written out.
_RESULTS = 4 * 2**20
# With up to four dimensions `tiles` reads single columns, which v4 cannot do;
# five to seven have not been tried there.
_LEAST_DIM = 8

_interpreted = contextvars.ContextVar("interpreted", default=False)


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
  """What is traced inside emulates the kernels, to check them without a TPU."""
  token = _interpreted.set(True)
  try:
    yield
  finally:
    _interpreted.reset(token)


def by_platform(tile: Callable) -> Callable:
  """The function that computes a tile on the platform it is compiled for.

  The choice is made when the program is lowered, so it also applies to a
  program that a CPU compiles for a TPU.

  Args:
    tile: (block a, block b, weight) -> (contribution to a, contribution to b),
      as for `tiled`, correct for any number of rows in a block.

  Returns:
    The same function, as a kernel on TPUs if its results fit into the vector
    memory (up to eight codebooks of 128 for 512 rows), the number of rows is a
    multiple of `PART`, there are eight dimensions or more, and no `shard_map`
    with `check_vma` is around.
  """

  def choose(a: Any, b: Any, weight: jax.Array) -> tuple[Any, Any]:
    z = a[0].z
    too_large = 2 * z.size * z.dtype.itemsize > _RESULTS
    tracked = mapped.varies(z)
    if tracked or z.shape[1] % PART or too_large or z.shape[2] < _LEAST_DIM:
      return tile(a, b, weight)
    emulated = _interpreted.get()
    kernel = lambda a, b, weight: tiled(
      tile, a, b, weight, part=PART, interpret=emulated
    )

    def run(*given: Any) -> Any:
      if emulated:
        return kernel(*given)
      return lax.platform_dependent(*given, tpu=kernel, default=tile)

    # Pallas kernels have no derivatives.
    either = jax.custom_jvp(run)
    either.defjvp(functools.partial(jax.jvp, tile))
    return either(a, b, weight)

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
  """`tile(a, b, weight)` as one Pallas kernel, part by part.

  Args:
    tile: its results must be sums over the rows of the other block.
    a: (`row_blocks.Blocks` of one block, any other arrays). Arrays of the shape
      of z, [codebooks, rows, dim], have their rows in the middle, all others at
      the end. This holds for the results too.
    b: the same for the other block, with as many rows.
    weight: scalar.
    part: rows of a part, a divisor of the rows of a block.
    interpret: emulate the kernel without a TPU, slowly.

  Returns:
    The results of `tile`.
  """
  # Imported here: it takes a second, and most programs do not need it.
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import tpu as pltpu

  z = a[0].z
  rows = z.shape[1]
  given: list[jax.Array]
  tree: Any
  given, tree = jax.tree.flatten((a, b))
  small = [_with_rows(x, z, part) for x in given]
  small_a, small_b = tree.unflatten(small)
  results_tree: Any
  results, results_tree = jax.tree.flatten(
    jax.eval_shape(tile, small_a, small_b, weight)
  )
  axes = [_axis(x, small_a[0].z) for x in results]
  whole = [_with_rows(x, small_a[0].z, rows) for x in results]

  def kernel(weight: Any, *refs: Any) -> None:
    at = pl.program_id(0), pl.program_id(1)
    sums = refs[len(given) :]

    @pl.when((at[0] == 0) & (at[1] == 0))
    def _() -> None:
      for ref in sums:
        ref[...] = jnp.zeros_like(ref)

    values = [
      ref[...].reshape(x.shape)
      for ref, x in zip(refs[: len(given)], small, strict=True)
    ]
    found = jax.tree.leaves(tile(*tree.unflatten(values), weight[0]))
    for k, (ref, axis, x) in enumerate(zip(sums, axes, found, strict=True)):
      # The first half of the results belongs to a.
      first = pl.multiple_of(at[2 * k // len(sums)] * part, part)
      place: list[Any] = [slice(None)] * len(ref.shape)
      place[axis - x.ndim] = pl.ds(first, part)
      ref[tuple(place)] += _wide(x)

  def part_of(k: int, x: jax.ShapeDtypeStruct) -> Any:
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


def _axis(x: Any, z: Any) -> int:
  """The axis of the rows: the middle one in arrays like z, else the last."""
  return 1 if x.shape == z.shape else x.ndim - 1


def _with_rows(x: Any, z: Any, rows: int) -> jax.ShapeDtypeStruct:
  shape = list(x.shape)
  shape[_axis(x, z)] = rows
  return jax.ShapeDtypeStruct(tuple(shape), x.dtype)


def _wide(x: Any) -> Any:
  """A vector as a matrix of one row, the form TPUs need."""
  if x.ndim > 1:
    return x
  if isinstance(x, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct((1, *x.shape), x.dtype)
  return x[None]
