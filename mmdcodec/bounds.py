"""Bounds that are declared with the fields of a class, and always checked.

  class Quantizer(Checked, nn.Module):
    codebooks: Annotated[int, whole(1, 4096)]
    decay: Annotated[float, number(0, 1)] = 0.99

An object with another value cannot be made, whoever makes it: a config, a
bundle, converted weights or Python code. The bounds are far beyond any
published model, but reject nonsense and what fits into no memory.
"""

import dataclasses
import functools
import numbers
import reprlib
from collections.abc import Callable, Collection, Mapping
from types import EllipsisType
from typing import Annotated, Any, ClassVar, NamedTuple, get_origin

import numpy as np

from mmdcodec.errors import UserError

# What layers compute in.
FLOATS = ("float32", "bfloat16", "float16", "float64")

# About the largest number that float32 holds.
LARGEST = 3e38


class Check(NamedTuple):
  """A condition on a value.

  Attributes:
    holds: returns whether a value meets the condition.
    wanted: the condition in words.
  """

  holds: Callable[[Any], bool]
  wanted: str


def _is(value: Any, kind: type) -> bool:
  """Returns whether a value is a number of a kind; Booleans are none."""
  return isinstance(value, kind) and not isinstance(value, bool)


def whole(least: int, most: int) -> Check:
  """Requires an integer within bounds, not a Boolean."""
  return Check(
    lambda v: _is(v, numbers.Integral) and least <= v <= most,
    f"a whole number from {least} to {most}",
  )


def number(least: float, most: float) -> Check:
  """Requires a finite number within bounds, which may be `LARGEST`."""
  wanted = f"a number from {least:g} to {most:g}"
  if most == LARGEST:
    bound = "" if least == -LARGEST else f" of at least {least:g}"
    wanted = f"a finite number{bound} that float32 can hold"
  # NaN fails any comparison.
  return Check(lambda v: _is(v, numbers.Real) and least <= v <= most, wanted)


def fraction() -> Check:
  """Requires a number of at least 0 and below 1."""
  check = number(0, 1)
  return Check(
    lambda v: check.holds(v) and v < 1, "a number of at least 0 and below 1"
  )


def list_of(check: Check, count: int, least: int = 1) -> Check:
  """Requires a list of `least` to `count` values that pass a check."""
  return Check(
    lambda v: (
      isinstance(v, (list, tuple))
      and least <= len(v) <= count
      and all(map(check.holds, v))
    ),
    f"a list of {least} to {count} values, each {check.wanted}",
  )


def mapping() -> Check:
  """Requires a mapping whose keys are text."""
  return Check(
    lambda v: isinstance(v, Mapping) and all(isinstance(k, str) for k in v),
    "a mapping from names to values",
  )


def flag() -> Check:
  """Requires true or false, also of NumPy."""
  return Check(lambda v: isinstance(v, bool | np.bool_), "true or false")


def one_of(choices: Collection[Any]) -> Check:
  """Requires one of several values, with the same type."""
  return Check(
    lambda v: any(type(v) is type(c) and v == c for c in choices),
    " or ".join(map(repr, choices)),
  )


def dtype(*names: str) -> Check:
  """Requires a dtype, or its name."""

  def holds(value: Any) -> bool:
    if isinstance(value, str):
      return value in names
    try:
      return np.dtype(value).name in names
    except TypeError:
      return False

  return Check(holds, " or ".join(map(repr, names)))


def either(*checks: Check) -> Check:
  """Requires that one of several checks passes."""
  return Check(
    lambda v: any(check.holds(v) for check in checks),
    ", or ".join(check.wanted for check in checks),
  )


def null_or(check: Check) -> Check:
  """Allows null, which stands for a missing field, beside another check."""
  return Check(lambda v: v is None or check.holds(v), f"null or {check.wanted}")


class Checked:
  """Base of dataclasses and Linen modules whose fields have bounds.

  Attributes:
    called: what an error calls the object; by default the name of its class.
  """

  called: ClassVar[Any] = None

  def __post_init__(self) -> None:
    """Checks the fields.

    Raises:
      UserError: a field is out of its bounds, or there is a `problem`.
    """
    called = self.called or type(self).__name__
    kind: Any = type(self)
    for name, check in declared(kind).items():
      if not check.holds(value := getattr(self, name)):
        raise refused(f"{name} of {called}", value, check)
    above: Any = super()
    if hasattr(above, "__post_init__"):
      above.__post_init__()
    if problem := self.problem:
      raise UserError(f"{called}: {problem}.")

  @property
  def problem(self) -> str | None:
    """What is wrong with the fields taken together, or None."""
    return None


@functools.cache
def declared(kind: Any) -> dict[str, Check]:
  """The bounds of the fields of a dataclass, by name.

  Raises:
    TypeError: annotations are kept as text, where no bound would be found.
  """
  fields = dataclasses.fields(kind)
  # As all are after `from __future__ import annotations`.
  if text := [field.name for field in fields if isinstance(field.type, str)]:
    raise TypeError(
      f"annotations of {kind.__name__} are text ({', '.join(text)}), so its"
      " fields have no bounds; write them without quotes."
    )
  return {
    field.name: check
    for field in fields
    if get_origin(field.type) is Annotated
    for check in field.type.__metadata__  # type: ignore[union-attr]
    if isinstance(check, Check)
  }


def check(what: str, value: Any, wanted: Check) -> None:
  """Checks one value.

  Args:
    what: the value in words, such as "windows of the mel loss".
    value: the value.
    wanted: condition on the value.

  Raises:
    UserError: the value does not meet the condition.
  """
  if not wanted.holds(value):
    raise refused(what, value, wanted)


def refused(what: str, value: Any, wanted: Check) -> UserError:
  """Makes the error for a value out of bounds."""
  # A module's dicts are frozen ones, which are shown over several lines.
  found = " ".join(reprlib.repr(value).split())
  return UserError(f"{what} is {found}; it must be {wanted.wanted}.")


def check_jax(array: Any) -> None:
  """Checks the modes of JAX in which a caller passes an array.

  Raises:
    UserError: the mesh in use or the array's has Explicit axes, or dtypes are
      promoted strictly.
  """
  # The command line imports this file, and is fast without JAX.
  import jax

  modes: Any = jax.config
  if modes.jax_numpy_dtype_promotion == "strict":
    raise UserError(
      "jax_numpy_dtype_promotion is 'strict', which Flax's layers and those of"
      " mmdcodec do not support: call them, and take their gradients, inside"
      " `with jax.numpy_dtype_promotion('standard')`."
    )
  check_axes(jax.sharding.get_abstract_mesh())
  if isinstance(array, jax.Array):
    check_axes(jax.typeof(array).sharding.mesh)


def check_axes(mesh: Any) -> None:
  """Raises UserError if a mesh has Explicit axes, which need annotations."""
  if mesh.explicit_axes:
    names = ", ".join(mesh.explicit_axes)
    raise UserError(
      f"the mesh has the Explicit axes {names} (the default of jax.make_mesh),"
      " but lookups, scans and caches need Auto ones: make it with"
      f" axis_types=(jax.sharding.AxisType.Auto,) * {len(mesh.axis_names)}."
    )


def check_shape(
  what: str, array: Any, /, **axes: int | EllipsisType | None
) -> None:
  """Checks the shape of an array that a caller passes, and JAX's modes.

  Args:
    what: name of the argument.
    array: the array, or anything with a `shape`.
    **axes: size of each axis by its name, in order; None means 1 or more, and
      `...` any size, even 0.

  Raises:
    ValueError: the array has other axes, or an axis another size.
    UserError: see `check_jax`.
  """
  check_jax(array)
  fits = len(array.shape) == len(axes) and all(
    want is ... or (size > 0 if want is None else size == want)
    for size, want in zip(array.shape, axes.values(), strict=True)
  )
  if not fits:
    names = [k if v in (None, ...) else f"{k} = {v}" for k, v in axes.items()]
    raise ValueError(
      f"{what} has shape {list(array.shape)}; expected [{', '.join(names)}]"
      + (", not empty" if 0 in array.shape else "")
    )


def check_integers(what: str, array: Any) -> None:
  """Raises ValueError unless an array that a caller passes has integers."""
  if not np.issubdtype(array.dtype, np.integer):
    raise ValueError(f"{what} holds {array.dtype} values; expected integers")
