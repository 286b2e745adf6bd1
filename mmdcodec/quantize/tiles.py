"""The arithmetic of one tile: all pairs of two blocks of rows.

u is the number that a kernel takes for each pair of vectors (`kernels.py`): an
array [codebooks, block, block]. Much of this code works around XLA on CPUs, as
the comments explain.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec.parallel import mapped
from mmdcodec.quantize.kernels import Kernel
from mmdcodec.quantize.row_blocks import Blocks

# Below this share of |x|^2 + |y|^2, |x - y|^2 is rounding error: equal rows.
_ROUNDING = 1e-6
# Dimensions that are summed in one matrix product.
_PART = 512
# Up to this many dimensions, differences are as fast as a matrix product.
_NARROW = 4

# Values and slopes of a kernel, each one array per scale.
Terms = tuple[list[jax.Array], list[jax.Array]]


def terms(
  kernel: Kernel, a: Blocks, b: Blocks, live: jax.Array
) -> tuple[jax.Array, Terms]:
  """The numbers u of all pairs, and the kernel's values and slopes there.

  Args:
    kernel: k = sum_s k_s.
    a: one block.
    b: the other block.
    live: bool [block, block], pairs that count.
  """
  u = _arguments(kernel, a, b, live)
  return u, kernel.terms(kernel.roots(u))


def _arguments(
  kernel: Kernel, a: Blocks, b: Blocks, live: jax.Array
) -> jax.Array:
  """The numbers u of all pairs: [codebooks, block, block]."""
  x, y = a.z, b.z
  dim = x.shape[-1]

  def compute() -> jax.Array:
    if kernel.of == "product":
      u = _times(x, y, (2, 2)) / dim
    elif dim <= _NARROW:
      u = sum(d * d for d in _differences(x, y))
    else:
      size = a.square[:, :, None] + b.square[:, None]
      # In parts, because rounding errors of one long sum hide equal rows.
      u = size - 2.0 * sum(
        _times(x[..., i : i + _PART], y[..., i : i + _PART], (2, 2))
        for i in range(0, dim, _PART)
      )
      u = jnp.where(u < _ROUNDING * size, 0.0, u)
    return jnp.where(live, u, kernel.nowhere)

  return _stored(compute, a, kernel.nowhere)


def _differences(x: jax.Array, y: jax.Array) -> list[jax.Array]:
  """Differences of all pairs per coordinate: [codebooks, block, block]."""
  return [x[:, :, None, i] - y[:, None, :, i] for i in range(x.shape[-1])]


def _stored(compute: Callable, a: Blocks, otherwise: float) -> jax.Array:
  """Runs compute() and stores its result in memory once.

  XLA on CPUs fuses cheap arithmetic into every loop that reads its result, so
  it would compute the distances again for each radius. Optimization barriers
  are gone by then, but it does not fuse across a conditional.

  Where no row of `a` counts, the array is filled with `otherwise`.
  """

  def choose() -> jax.Array:
    shape = jax.eval_shape(compute)
    nothing = lambda: mapped.varying_like(
      jnp.full(shape.shape, otherwise, shape.dtype), a.z
    )
    return lax.cond((a.source >= 0).any(), compute, nothing)

  return lax.platform_dependent(cpu=choose, default=compute)


def joint(
  kernel: Kernel, a: Blocks, u: jax.Array, terms: Terms
) -> tuple[jax.Array, jax.Array]:
  """K = sum_s prod_k k_s(u_k), and its derivative in each u_k.

  Args:
    kernel: k = sum_s k_s.
    a: one block of the tile.
    u: [codebooks, block, block].
    terms: values and slopes at u, from the function `terms`.

  Returns:
    [block, block], and [codebooks or 1, block, block].
  """
  if kernel.multiplies:
    # A few more exponentials, but XLA stores them. It would multiply the values
    # of all codebooks again in every loop that reads their product.
    values, slopes = kernel.terms(
      kernel.roots(_stored(lambda: sum(u), a, kernel.nowhere))
    )
    total: Any = sum(values)
    derivative: Any = sum(slopes)
    return total, derivative[None]
  total = derivative = 0.0
  for value, slope in zip(*terms, strict=True):
    product, others = _leave_one_out(list(value))
    total += product
    derivative += jnp.stack(others) * slope
  return total, derivative


def _leave_one_out(
  factors: list[jax.Array],
) -> tuple[jax.Array, list[jax.Array]]:
  """The product of all, and for each the product of the others."""
  before: list[Any] = [1.0]
  after: list[Any] = [1.0]
  for factor in factors[:-1]:
    before.append(before[-1] * factor)
  for factor in factors[:0:-1]:
    after.append(after[-1] * factor)
  others = [b * a for b, a in zip(before, reversed(after), strict=True)]
  return before[-1] * factors[-1], others


def differ(kernel: Kernel, u: jax.Array, live: jax.Array) -> jax.Array:
  """Pairs that have a gradient: bool, broadcasting with u.

  Equal rows have none. But a narrow kernel is steepest there, and rounding
  errors of that slope would exceed everything else.
  """
  return live & (u > 0) if kernel.of == "distance" else live


def gradients(
  kernel: Kernel, w: jax.Array, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Gradients of sum_kij w_kij u_kij with respect to x and y.

  Args:
    kernel: the kernel that takes u.
    w: [codebooks, block, block].
    x: vectors of one block, [codebooks, block, dim].
    y: vectors of the other block, of the same shape.
  """
  if kernel.of == "product":
    scale = 1.0 / x.shape[-1]
    return scale * _times(w, y, (2, 1)), scale * _times(w, x, (1, 1))
  if x.shape[-1] <= _NARROW:
    # A matrix product would lose the difference of two close rows to rounding.
    each = [2.0 * w * difference for difference in _differences(x, y)]
    return (
      jnp.stack([pair_sum(v, 1) for v in each], -1),
      jnp.stack([-pair_sum(v, 0) for v in each], -1),
    )

  def sums(barrier: Callable) -> tuple[jax.Array, ...]:
    transposed = barrier(jnp.swapaxes(x, 1, 2))
    return barrier(
      (w.sum(2), w.sum(1), _times(w, y, (2, 1)), _times(transposed, w, (2, 1)))
    )

  # XLA on CPUs has a fast matrix product, but not for a transposed first
  # factor. Barriers keep it from moving the transposition back there. They work
  # here, unlike in `_stored`, because XLA drops them after that pass.
  rows, columns, for_x, for_y = lax.platform_dependent(
    cpu=lambda: sums(lax.optimization_barrier),
    default=lambda: sums(lambda x: x),
  )
  return (
    2.0 * (rows[..., None] * x - for_x),
    2.0 * (columns[..., None] * y - jnp.swapaxes(for_y, 1, 2)),
  )


def pair_sum(x: jax.Array, axis: int) -> jax.Array:
  """Sums of matrices [..., rows, columns]: over rows (axis 0) or columns (1).

  A TPU kernel stores the sums over rows as they are computed, but not those
  over columns, and v4 cannot transpose them. For XLA both are the same.
  """
  return (jnp.swapaxes(x, -1, -2) if axis else x).sum(-2)


def _times(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
  """Products of two matrices for each codebook, in full float32 on TPUs too."""
  dims = (((contract[0],), (contract[1],)), ((0,), (0,)))
  return lax.dot_general(a, b, dims, precision=lax.Precision.HIGHEST)
