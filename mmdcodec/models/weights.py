"""Checks that weights from a file are those of the model that a config gives.

Everything is checked by shape before any array of the model is made.
"""

import functools
import importlib
import os
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.errors import UserError
from mmdcodec.models import codec

# Values that are checked together.
_BLOCK = 1 << 18
_TEXT = bounds.Check(lambda value: isinstance(value, str), "a text")


# Kind of a bundle -> function "module:name" that takes the bundle's config and
# returns the shapes of its variables. Imported only when needed: some take a
# while.
SHAPES = {
  "codec": "mmdcodec.models.weights:_codec",
  "lm": "mmdcodec.models.weights:_music",
  "stage": "mmdcodec.models.weights:_stage",
  "text": "mmdcodec.models.bert:shapes",
  "clap": "mmdcodec.models.clap:shapes",
  "tagger": "mmdcodec.models.musicnn:shapes",
  "mulan": "mmdcodec.models.mulan:bundle_shapes",
  "semantic": "mmdcodec.models.semantic_networks:bundle_shapes",
  "melody_embedding": "mmdcodec.models.melody_embedding:shapes",
}
# Collections that `mmdcodec cluster` adds to a network with features; whoever
# loads them checks them.
FITTED = ("codebook", "bridge")


def shapes(config: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes and dtypes of the variables of a bundle, without making them.

  Args:
    config: config of a bundle of a kind in SHAPES.

  Returns:
    Nested dicts of `jax.ShapeDtypeStruct`, which others may be given too: not
    to be changed.

  Raises:
    UserError: a field is missing, unknown or out of its bounds.
  """
  bounds.check("its model", config.get("model"), bounds.mapping())
  module, name = SHAPES[config["kind"]].split(":")
  return getattr(importlib.import_module(module), name)(config)


def _codec(config: Mapping[str, Any]) -> dict[str, Any]:
  return dict(_of_codec(codec.from_config(config["model"])))


# Tracing takes up to a second, and a process may open a model several times.
@functools.lru_cache(maxsize=64)
def _of_codec(model: codec.Codec) -> dict[str, Any]:
  x = jax.ShapeDtypeStruct((1, model.stride, model.channels), jnp.float32)
  return dict(jax.eval_shape(model.init, jax.random.key(0), x))


@functools.lru_cache(maxsize=64)
def _of_lm(model: Any) -> dict[str, Any]:
  from mmdcodec.models import token_lm

  return token_lm.shapes(model)


def _music(config: Mapping[str, Any]) -> dict[str, Any]:
  from mmdcodec.models import token_lm

  bounds.check("its codec", config.get("codec"), bounds.mapping())
  found = _of_lm(token_lm.from_config(config["model"]))
  return found | {"codec": shapes({**config["codec"], "kind": "codec"})}


def _stage(config: Mapping[str, Any]) -> dict[str, Any]:
  from mmdcodec.models import token_lm

  def named(what: str, found: Any) -> None:
    bounds.check(what, found, bounds.mapping())
    for key in ("tokenizer", "hash"):
      bounds.check(f"{what}.{key}", found.get(key), _TEXT)

  named("target", config.get("target"))
  rate = config["target"].get("frame_rate")
  bounds.check("target.frame_rate", rate, bounds.number(1e-6, 1e6))
  model = token_lm.from_config(config["model"])
  if model.collapse:
    # No more than there were with repeats.
    most = bounds.number(1e-6, rate)
    bounds.check("target.token_rate", config["target"].get("token_rate"), most)
  streams = config.get("streams", {})
  bounds.check("streams", streams, bounds.mapping())
  for name, stream in streams.items():
    named(f"streams.{name}", stream)
  return dict(_of_lm(model))


def check(
  path: str | os.PathLike,
  config: Mapping[str, Any],
  variables: dict[str, Any],
  discriminators: dict[str, Any] | None = None,
) -> None:
  """Checks the config of a model, and that its weights fit and are numbers.

  Args:
    path: where they come from, for errors.
    config: config of a bundle of a kind in SHAPES.
    variables: nested dicts of arrays.
    discriminators: likewise; whether they fit is for the training to say.

  Raises:
    UserError: a field is missing, unknown or out of its bounds; an array is
      missing, left over, of another shape or type, or not finite.
  """
  try:
    expected = shapes(config)
  except UserError as error:
    raise UserError(f"{path} does not describe a model: {error}") from None
  fitted = {*FITTED} - {*expected}
  variables = {k: v for k, v in variables.items() if k not in fitted}
  want = flax.traverse_util.flatten_dict(expected, sep="/")
  found = flax.traverse_util.flatten_dict(variables, sep="/")
  wrong = sorted(
    name
    for name in {*want, *found}
    if name not in want
    or name not in found
    or want[name].shape != found[name].shape
  )
  if wrong:
    raise UserError(
      f"the weights of {path} do not fit its config: {', '.join(wrong[:5])}"
      + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
      + " are missing, left over or of another shape."
    )
  dtypes = {name: array.dtype for name, array in want.items()}
  judges = flax.traverse_util.flatten_dict(discriminators or {}, sep="/")
  for name, array in [*found.items(), *judges.items()]:
    if problem := _problem(array, dtypes.get(name, jnp.float32)):
      raise UserError(
        f"the weights of {path} can't be used: {name} {problem}; get the files"
        " again, or train or export the model again."
      )


def check_parts(
  path: str | os.PathLike,
  config: Mapping[str, Any],
  variables: Mapping[str, Any],
) -> None:
  """Checks each of the models that another one has under "parts".

  Args:
    path: where they come from, for errors.
    config: config of the bundle.
    variables: variables by the key of the part.

  Raises:
    UserError: there are weights without a config or the other way round, or
      those of a part do not fit; see `check`.
  """
  parts: Any = config.get("parts")
  bounds.check(f"parts of {path}", parts, bounds.mapping())
  if {*parts} != {*variables}:
    raise UserError(
      f"{path} describes the parts {', '.join(sorted(parts))}, and has weights"
      f" of {', '.join(sorted(variables))}; assemble it again."
    )
  for key, part in parts.items():
    bounds.check(f"{key} of {path}", part, bounds.mapping())
    kind = part.get("kind")
    bounds.check(f"kind of {key} of {path}", kind, bounds.one_of([*SHAPES]))
    check(f"{path} ({key})", part, variables[key])


def _problem(array: Any, wanted: Any) -> str | None:
  """What is wrong with the type or values of an array, or None."""
  floats = jnp.issubdtype(wanted, jnp.floating)
  good = array.dtype == wanted
  if floats:
    # Half and double precision work too.
    good = jnp.issubdtype(array.dtype, jnp.floating)
  if not good:
    return f"is {array.dtype} instead of {wanted}"
  if not floats:
    return None
  return None if _finite(array) else "holds NaN or infinite values"


def _finite(array: Any) -> bool:
  """Whether all of an array of floats are numbers."""
  values = np.asarray(array).reshape(-1)
  for start in range(0, values.size, _BLOCK):
    block = values[start : start + _BLOCK]
    if block.dtype.itemsize < 4:
      # NumPy adds bfloat16 up ten times slower than it converts it.
      block = block.astype(np.float32)
    # The sum takes no memory; it is finite only if every value is.
    with np.errstate(all="ignore"):
      finite = np.isfinite(np.sum(block)) or np.isfinite(block).all()
    if not finite:
      return False
  return True
