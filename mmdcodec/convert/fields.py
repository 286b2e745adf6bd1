"""What the fields of a config.json may be, checked before anything is computed.

A file from elsewhere may hold anything: text for a number, a list for a name,
numbers so large that the model alone would fill the memory.
"""

import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

from mmdcodec.errors import UserError


class Check(NamedTuple):
  """What a value must be.

  Attributes:
    holds: whether it is.
    wanted: the same in words.
  """

  holds: Callable[[Any], bool]
  wanted: str


def whole(least: int, most: int) -> Check:
  """A whole number in bounds, and no truth value."""
  return Check(
    lambda v: type(v) is int and least <= v <= most,
    f"a whole number from {least} to {most}",
  )


def wholes(least: int, most: int, count: int) -> Check:
  """A list of 1 to `count` whole numbers in bounds."""
  each = whole(least, most)
  return Check(
    lambda v: _list(v, count) and all(map(each.holds, v)),
    f"a list of 1 to {count} whole numbers from {least} to {most}",
  )


def number(least: float, most: float) -> Check:
  """A finite number in bounds."""
  return Check(
    # NaN is in no bounds.
    lambda v: type(v) in (int, float) and least <= v <= most,
    f"a number from {least:g} to {most:g}",
  )


def numbers(least: float, most: float, count: int) -> Check:
  """A list of 1 to `count` finite numbers in bounds."""
  each = number(least, most)
  return Check(
    lambda v: _list(v, count) and all(map(each.holds, v)),
    f"a list of 1 to {count} numbers from {least:g} to {most:g}",
  )


def flag() -> Check:
  """True or false."""
  return Check(lambda v: type(v) is bool, "true or false")


def one_of(choices) -> Check:
  """One of a few values of its type."""
  return Check(
    lambda v: any(type(v) is type(c) and v == c for c in choices),
    " or ".join(map(repr, choices)),
  )


def null_or(check: Check) -> Check:
  """Null, which is as if the field were not there."""
  return Check(lambda v: v is None or check.holds(v), f"null or {check.wanted}")


def get(config: dict[str, Any], key: str, default: Any, check: Check) -> Any:
  """The value of a field, or what it is where a config does not say it.

  Raises:
    UserError: it is nothing that the field can be.
  """
  value = config.get(key, default)
  if key in config and not check.holds(value):
    raise refused(key, value, check.wanted)
  return value


def refused(key: str, value: Any, wanted: str) -> UserError:
  """The error for a value of a field."""
  return UserError(
    f"config.json has {key} = {reprlib.repr(value)}, which is not supported:"
    f" expected {wanted}."
  )


def _list(value: Any, count: int) -> bool:
  return isinstance(value, (list, tuple)) and 1 <= len(value) <= count
