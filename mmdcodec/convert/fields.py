"""Checks the fields of a config.json before anything is computed.

A foreign file may contain anything: text instead of a number, a list instead of
a name, or numbers so large that the model would fill the memory.
"""

import reprlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from mmdcodec.errors import UserError


class Check(NamedTuple):
  """A condition on a value.

  Attributes:
    holds: returns whether a value meets the condition.
    wanted: the condition in words.
  """

  holds: Callable[[Any], bool]
  wanted: str


def whole(least: int, most: int) -> Check:
  """Requires an integer within bounds, not a Boolean."""
  return Check(
    lambda v: type(v) is int and least <= v <= most,
    f"a whole number from {least} to {most}",
  )


def number(least: float, most: float) -> Check:
  """Requires a finite number within bounds."""
  return Check(
    # NaN fails any comparison.
    lambda v: type(v) in (int, float) and least <= v <= most,
    f"a number from {least:g} to {most:g}",
  )


def list_of(check: Check, count: int) -> Check:
  """Requires a list of 1 to `count` values that pass a check."""
  return Check(
    lambda v: (
      isinstance(v, (list, tuple))
      and 1 <= len(v) <= count
      and all(map(check.holds, v))
    ),
    f"a list of 1 to {count} values, each {check.wanted}",
  )


def flag() -> Check:
  """Requires true or false."""
  return Check(lambda v: type(v) is bool, "true or false")


def one_of(choices: Collection[Any]) -> Check:
  """Requires one of several values, with the same type."""
  return Check(
    lambda v: any(type(v) is type(c) and v == c for c in choices),
    " or ".join(map(repr, choices)),
  )


def null_or(check: Check) -> Check:
  """Allows null, which stands for a missing field, beside another check."""
  return Check(lambda v: v is None or check.holds(v), f"null or {check.wanted}")


def get(config: dict[str, Any], key: str, default: Any, check: Check) -> Any:
  """Returns the checked value of a field.

  Args:
    config: content of the file.
    key: name of the field.
    default: value if the field is missing; it is not checked.
    check: condition on the value.

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
  """Checks that a config has only known fields.

  Args:
    config: content of the file.
    names: names of the known fields.
    model: name of the model for the error.

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
  """Makes the error for an unsupported value of a field."""
  return UserError(
    f"config.json has {key} = {reprlib.repr(value)}, which is not supported:"
    f" expected {wanted}."
  )
