"""Checks the fields of a foreign config.json, and names them as the file does.

The bounds are those of our own fields, as far as there are such
(`mmdcodec.bounds`).
"""

import reprlib
from collections.abc import Collection, Mapping
from typing import Any

from mmdcodec.bounds import Check
from mmdcodec.errors import UserError


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


def renamed(
  config: dict[str, Any],
  names: Mapping[str, tuple[str, Any]],
  checks: Mapping[str, Check],
) -> dict[str, Any]:
  """Returns checked values under our names.

  Args:
    config: content of the file.
    names: name in the file -> (our name, value if the field is missing).
    checks: conditions by our names.

  Raises:
    UserError: a value does not pass its check.
  """
  return {
    ours: get(config, name, default, checks[ours])
    for name, (ours, default) in names.items()
  }


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
