"""Checks of the fields of a config.json, before anything is computed.

A file from elsewhere may contain anything: text for a number, a list for a
name, or numbers so large that the model would fill the memory.
"""

import reprlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from mmdcodec.errors import UserError


class Check(NamedTuple):
  """A condition on a value.

  Attributes:
    holds: whether a value meets it.
    wanted: the condition in words.
  """

  holds: Callable[[Any], bool]
  wanted: str


def whole(least: int, most: int) -> Check:
  """A whole number in bounds, not a Boolean."""
  return Check(
    lambda v: type(v) is int and least <= v <= most,
    f"a whole number from {least} to {most}",
  )


def number(least: float, most: float) -> Check:
  """A finite number in bounds."""
  return Check(
    # NaN is out of any bounds.
    lambda v: type(v) in (int, float) and least <= v <= most,
    f"a number from {least:g} to {most:g}",
  )


def list_of(check: Check, count: int) -> Check:
  """A list of 1 to `count` values that pass a check."""
  return Check(
    lambda v: (
      isinstance(v, (list, tuple))
      and 1 <= len(v) <= count
      and all(map(check.holds, v))
    ),
    f"a list of 1 to {count} values, each {check.wanted}",
  )


def flag() -> Check:
  """True or false."""
  return Check(lambda v: type(v) is bool, "true or false")


def one_of(choices: Collection[Any]) -> Check:
  """One of a few values, of the same type."""
  return Check(
    lambda v: any(type(v) is type(c) and v == c for c in choices),
    " or ".join(map(repr, choices)),
  )


def null_or(check: Check) -> Check:
  """Null, which stands for a missing field, or another check."""
  return Check(lambda v: v is None or check.holds(v), f"null or {check.wanted}")


def get(config: dict[str, Any], key: str, default: Any, check: Check) -> Any:
  """The value of a field.

  Args:
    config: of a file.
    key: name of the field.
    default: value if the field is missing; it is not checked.
    check: for the value.

  Raises:
    UserError: the value does not pass the check.
  """
  value = config.get(key, default)
  if key in config and not check.holds(value):
    raise refused(key, value, check.wanted)
  return value


def check_known(
  config: dict[str, Any], names: Collection[str], model: str
) -> None:
  """Checks that a config has no fields but these.

  Args:
    config: of a file.
    names: of the known fields.
    model: its name in the error.

  Raises:
    UserError: there is another field.
  """
  for key in config:
    if key not in names:
      raise UserError(
        f"config.json has a field {key!r}, which the {model} of this version"
        " does not know."
      )


def refused(key: str, value: Any, wanted: str) -> UserError:
  """The error for an unsupported value of a field."""
  return UserError(
    f"config.json has {key} = {reprlib.repr(value)}, which is not supported:"
    f" expected {wanted}."
  )
