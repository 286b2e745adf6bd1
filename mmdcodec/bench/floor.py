"""Lower bounds on the time of a computation, from operations and bytes.

Operations are counted in the jaxpr (matrix products, convolutions and FFTs,
times loop iterations), without elementwise work. Bytes are those of arguments
and results, each moved once. The floor is the larger of operations divided by
the measured matmul speed and bytes divided by the measured bandwidth.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from mmdcodec.bench import timing


def operations(function: Callable, *args: Any) -> float:
  """Counts floating-point operations of a function, from arrays or shapes."""
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
  return float(sum(_equation(equation) for equation in jaxpr.eqns))


def _equation(equation: Any) -> float:
  name, params = equation.primitive.name, equation.params
  if not equation.outvars:
    return 0.0
  out = equation.outvars[0].aval
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * out.size * math.prod(left[i] for i in contracted)
  if name == "conv_general_dilated":
    kernel = equation.invars[1].aval
    features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
    # Zeros inserted between the samples need no multiplication.
    return (
      2.0
      * out.size
      * kernel.size
      / features
      / math.prod(params["lhs_dilation"])
    )
  if name == "fft":
    sides = params["fft_lengths"]
    points = math.prod(sides)
    rows = math.prod(out.shape[: -len(sides)])
    kinds = jax.lax.FftType
    real = params["fft_type"] in (kinds.RFFT, kinds.IRFFT)
    # A real transform takes half of a complex one.
    return (0.5 if real else 1.0) * 5.0 * rows * points * math.log2(points)
  if name == "scan":
    return params["length"] * _count(params["jaxpr"].jaxpr)
  if name == "cond":
    # Steps usually take the cheaper branch: the other one initializes the
    # codebooks, once. (This also leaves out an independence loss with a start;
    # see `bench independence`.)
    return min(_count(branch.jaxpr) for branch in params["branches"])
  return sum(_count(inner) for inner in _inner(params))


def _inner(params: Any) -> Iterator[Any]:
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item


def size_in_bytes(tree: Any) -> int:
  """Returns the bytes of all arrays or shapes in a tree."""
  return sum(
    leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
  )


def matmul_speed(
  dtype: Any, precision: str, *, size: int = 2048, runs: int = 7
) -> float:
  """Measures operations per second of a product of square matrices.

  Args:
    dtype: of the matrices.
    precision: of the product, as in `jnp.matmul`.
    size: of the matrices, on CPUs. Accelerators get 8192, a millisecond for the
      fastest, so that starting the product does not count.
    runs: timed products; the median counts.
  """
  n = size if jax.default_backend() == "cpu" else 8192
  a = jnp.ones((n, n), dtype)
  product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
  return 2.0 * n**3 / timing.median_seconds(product, a, runs=runs)


@dataclasses.dataclass(frozen=True)
class Machine:
  """Speeds measured on the default device.

  Attributes:
    flops: operations per second of a matmul in full float32.
    bandwidth: bytes per second when reading and writing large arrays.
  """

  flops: float
  bandwidth: float

  @classmethod
  def measure(cls) -> "Machine":
    """Times one large matmul and one large copy."""
    # 128 MiB, and 1 GiB on accelerators, so that starting it does not count.
    count = 2**25 if jax.default_backend() == "cpu" else 2**28
    # In place, so that memory allocation is not measured.
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    x = jax.block_until_ready(add(jnp.ones((count,), jnp.float32)))
    times = []
    for _ in range(7):
      start = time.perf_counter()
      x = jax.block_until_ready(add(x))
      times.append(time.perf_counter() - start)
    return cls(
      flops=matmul_speed(jnp.float32, "highest"),
      bandwidth=2.0 * x.nbytes / float(np.median(times)),
    )

  def floor(self, operations: float, moved: float) -> float:
    """Returns the minimum seconds of the work at these speeds."""
    return max(operations / self.flops, moved / self.bandwidth)
