"""Builds models from mappings of their fields, with presets and checks."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import flax
import flax.linen as nn

from mmdcodec import bounds
from mmdcodec.errors import UserError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def defaults(kind: type[nn.Module], *, hidden: Iterable[str] = ()) -> dict:
  """The default of each field of a Linen module, except Flax's own fields.

  Args:
    kind: class of the module.
    hidden: names of fields to leave out.
  """
  left_out = {"parent", "name", *hidden}
  return {
    field.name: field.default
    for field in dataclasses.fields(kind)
    if field.name not in left_out
  }


def check_known(
  config: Mapping[str, Any], known: Iterable[str], what: str
) -> None:
  """Raises a UserError if a key of `config` is not a known field.

  Args:
    config: the mapping to check.
    known: names of the fields.
    what: the model in errors, such as "the codec".
  """
  known = list(known)
  for key in config:
    if key not in known:
      raise UserError(
        f"{what} has no field {key!r}: it has {', '.join(known)}."
      )


def preset(
  kind: type[nn.Module],
  presets: Mapping[str, Mapping[str, Any]],
  name: str,
  changes: Mapping[str, Any],
  what: str,
) -> dict[str, Any]:
  """All fields of a preset, ready for JSON and for `build`.

  Args:
    kind: class of the module.
    presets: fields that differ from the defaults, by name.
    name: name of the preset.
    changes: fields to change.
    what: the model in errors, such as "the codec".

  Raises:
    UserError: there is no such preset or field.
  """
  if name not in presets:
    raise UserError(
      f"there is no {what.removeprefix('the ')} preset {name!r}: choose one of"
      f" {', '.join(presets)}."
    )
  fields = defaults(kind)
  check_known(changes, fields, what)
  return fields | dict(presets[name]) | dict(changes)


def build(
  kind: type[ModuleT],
  config: Mapping[str, Any],
  what: str,
) -> ModuleT:
  """Builds a module from a mapping of its fields, which is frozen first.

  Args:
    kind: class of the module.
    config: its fields; missing ones keep their defaults.
    what: the model in errors, such as "the codec".

  Raises:
    UserError: no mapping, an unknown key, or a value out of its bounds.
  """
  bounds.check(f"the config of {what}", config, bounds.mapping())
  check_known(config, defaults(kind), what)
  return kind(**{key: freeze(value) for key, value in dict(config).items()})


def freeze(value: Any) -> Any:
  """Makes mappings and lists immutable, so that a module can be hashed."""
  if isinstance(value, Mapping):
    return flax.core.freeze({k: freeze(v) for k, v in value.items()})
  return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value
