"""Public weights become models of ours: one file per public model.

  encodec.py          EnCodec at 24, 32 and 48 kHz
  encodec_config.py   what its config.json says, as fields of our codec
  t5.py               encoders of T5, parts of other models: not for `read`
  fields.py           what a field of a config.json may be
  weights.py          tensors from safetensors files, each used exactly once
  hub.py              folders out of the Hugging Face Hub

`read` opens a folder of public weights; `mmdcodec convert` writes what it
returns as a bundle, `mmdcodec.load` runs it.
"""

import pathlib
from typing import Any

from mmdcodec.errors import UserError

# transformers' `model_type` -> module of this package with `convert(arrays,
# config, preset)`.
KINDS = {"encodec": "encodec"}


def read(
  path: str | pathlib.Path, preset: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
  """A public model, as the config and variables of a bundle.

  Args:
    path: folder with config.json (of transformers) and model.safetensors, or
      the latter's name; or weights of an original release alone: a .safetensors
      file, or a folder with one.
    preset: codec preset that tells what such weights can't, see
      `mmdcodec.convert.encodec.guess`.

  Returns:
    (config, variables); `config["source"]` says where they come from.

  Raises:
    UserError: no model that is known here, or not all of it.
  """
  import importlib

  from mmdcodec.convert import weights

  path = pathlib.Path(path)
  if path.is_file():
    arrays = weights.read(path)
    config = None
    # Weights of a release may lie beside a config.json that isn't theirs.
    if weights.named_by_transformers(arrays):
      beside = weights.read_config(path.parent)
      config = beside if is_public(beside) else None
  else:
    arrays, config = None, weights.read_config(path)
  kind = "encodec" if config is None else config.get("model_type")
  if not isinstance(kind, str) or kind not in KINDS:
    raise UserError(
      f"{path} holds a model of type {kind!r}; what can be converted is"
      f" {', '.join(KINDS)}."
    )
  if config is not None and preset is not None:
    raise UserError(
      f"{path} says in its config.json what it is: leave --preset away."
    )
  if arrays is None:
    arrays = weights.read(path)
  module = importlib.import_module(f"mmdcodec.convert.{KINDS[kind]}")
  model, variables = module.convert(arrays, config, preset)
  source = {"name": weights.name_of(path), "config": config, "preset": preset}
  return {"kind": "codec", "model": model, "source": source}, variables


def is_public(config: Any) -> bool:
  """Whether a config.json is one of transformers and not of a bundle."""
  return (
    isinstance(config, dict) and "model_type" in config and "kind" not in config
  )


def spare(folder: str | pathlib.Path) -> None:
  """Refuses to write where public weights are.

  Their files have the names of a bundle's, so nothing else would keep them from
  being replaced.

  Args:
    folder: to be written or replaced.

  Raises:
    UserError: it holds public weights.
  """
  from mmdcodec.convert import weights

  try:
    config = weights.read_config(pathlib.Path(folder).resolve())
  except UserError:  # no JSON: damaged, but nobody's weights
    return
  if is_public(config):
    raise UserError(
      f"{folder} holds public weights, which are never replaced: choose another"
      " name."
    )
