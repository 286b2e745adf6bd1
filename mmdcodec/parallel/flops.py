"""Counts the arithmetic of a program: matrix products and convolutions.

XLA's own analysis counts the content of a loop once, and of a kernel not at
all, so a Transformer whose blocks are scanned would have the operations of one
block. Here loops count as often as they run. Elementwise work, which takes no
matrix unit, does not count.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax.extend.core as jex

# Parameters of these primitives are functions that are called for each element
# of something, or never.
_IGNORED = ("reduce", "sort", "scatter", "reduce_window", "custom_lin")


def count(jaxpr: jex.ClosedJaxpr | jex.Jaxpr) -> float:
  """Counts floating-point operations, a product and its sum as two.

  Of the branches of a condition the largest counts, and of a loop without a
  known length one turn. Kernels count every block of their grid.

  Args:
    jaxpr: a program, as of `jax.stages.Traced.jaxpr`; before it is divided
      among devices, so the result is that of all of them.
  """
  return _count(jaxpr, {})


def _count(jaxpr: Any, known: dict[int, float]) -> float:
  """Counts one program; `known` are those that were counted before, by id."""
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  if id(jaxpr) not in known:
    known[id(jaxpr)] = sum(_equation(each, known) for each in jaxpr.eqns)
  return known[id(jaxpr)]


def _equation(equation: Any, known: dict[int, float]) -> float:
  """Counts one equation and the programs inside it."""
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    inner = math.prod(shape[axis] for axis in contracted)
    return 2.0 * inner * math.prod(equation.outvars[0].aval.shape)
  if name == "conv_general_dilated":
    return _convolution(equation)
  inside = [_count(each, known) for each in _programs(params)]
  if name in _IGNORED or not inside:
    return 0.0
  if name == "cond":
    return max(inside)
  return _repeats(name, params) * sum(inside)


def _convolution(equation: Any) -> float:
  """Counts a convolution, without products with the zeros of dilation."""
  kernel = equation.invars[1].aval.shape
  features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
  taps = math.prod(kernel) / max(features, 1)
  zeros = math.prod(equation.params["lhs_dilation"])
  return 2.0 * taps * math.prod(equation.outvars[0].aval.shape) / zeros


def _repeats(name: str, params: dict[str, Any]) -> float:
  """How often the programs inside an equation run."""
  if name == "scan":
    return params["length"]
  if name == "pallas_call":
    grid = params["grid_mapping"].grid
    return math.prod(side for side in grid if isinstance(side, int))
  if name == "shard_map":
    shape = params["mesh"].shape
    # JAX 0.10 calls them newly_manual_axes, others manual_axes.
    axes = next(v for k, v in params.items() if k.endswith("manual_axes"))
    return math.prod(shape[axis] for axis in axes)
  return 1


def _programs(params: dict[str, Any]) -> Iterator[Any]:
  """Yields the programs among the parameters of an equation."""
  for value in params.values():
    for each in value if isinstance(value, tuple | list) else (value,):
      if isinstance(each, jex.Jaxpr | jex.ClosedJaxpr):
        yield each
