"""Builds models from mappings of their fields, with presets and checks."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import flax
import flax.linen as nn

from mmdcodec import bounds
from mmdcodec.errors import UserError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def defaults(kind: Any, *, hidden: Iterable[str] = ()) -> dict:
  """The default of each field of a class, except Flax's own fields.

  Args:
    kind: the class, a Linen module or another dataclass.
    hidden: names of fields to leave out.
  """
  left_out = {"parent", "name", *hidden}
  return {
    field.name: field.default
    for field in dataclasses.fields(kind)
    if field.name not in left_out
  }


def check_known(
  config: Mapping[str, Any],
  kind: Any,
  *,
  hidden: Iterable[str] = (),
  called: str | None = None,
) -> None:
  """Raises a UserError if a key of `config` is not a field of a class.

  Args:
    config: the mapping to check.
    kind: the class, a Linen module or another dataclass.
    hidden: names of fields that `config` cannot have.
    called: what errors call its objects; None means `kind.called`.
  """
  known = defaults(kind, hidden=hidden)
  for key in config:
    if key not in known:
      raise UserError(
        f"{called or kind.called} has no field {key!r}: it has"
        f" {', '.join(known)}."
      )


def preset(
  kind: Any,
  presets: Mapping[str, Mapping[str, Any]],
  name: str,
  changes: Mapping[str, Any],
) -> dict[str, Any]:
  """All fields of a preset, ready for JSON and for `build`.

  Args:
    kind: class of the module; `kind.called` is its name in errors.
    presets: fields that differ from the defaults, by name.
    name: name of the preset.
    changes: fields to change.

  Raises:
    UserError: there is no such preset or field.
  """
  if name not in presets:
    raise UserError(
      f"there is no {kind.called.removeprefix('the ')} preset {name!r}: choose"
      f" one of {', '.join(presets)}."
    )
  check_known(changes, kind)
  return defaults(kind) | dict(presets[name]) | dict(changes)


def build(kind: type[ModuleT], config: Mapping[str, Any]) -> ModuleT:
  """Builds a module from a mapping of its fields, which is frozen first.

  Args:
    kind: class of the module; `kind.called` is its name in errors.
    config: its fields; missing ones keep their defaults.

  Raises:
    UserError: no mapping, an unknown key, or a value out of its bounds.
  """
  named: Any = kind
  bounds.check(f"the config of {named.called}", config, bounds.mapping())
  check_known(config, kind)
  return kind(**{key: freeze(value) for key, value in dict(config).items()})


def freeze(value: Any) -> Any:
  """Makes mappings and lists immutable, so that a module can be hashed."""
  if isinstance(value, Mapping):
    return flax.core.freeze({k: freeze(v) for k, v in value.items()})
  return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value
