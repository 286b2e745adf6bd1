"""Public weights become models of ours: one file per public model.

  encodec.py          EnCodec at 24, 32 and 48 kHz
  encodec_config.py   what its config.json says, as fields of our codec
  musicgen.py         MusicGen with its text encoder and its codec, for melodies
                      too
  musicgen_config.py  what its config.json says, as fields of our models
  musicgen_decoder.py its language model
  musicgen_release.py the names of the authors' own weights
  t5.py               encoders of T5, parts of other models: not for `read`,
                      but a training can begin with one
  fields.py           what a field of a config.json may be
  weights.py          tensors from safetensors files, each used exactly once
  hub.py              folders out of the Hugging Face Hub

`read` opens a folder of public weights; `mmdcodec convert` writes what it
returns as a bundle, `mmdcodec.load` runs it.
"""

import pathlib
from typing import Any

from mmdcodec.errors import UserError

# transformers' `model_type` -> module of this package with `bundled(arrays,
# config, preset, folder)`.
KINDS = {
  "encodec": "encodec",
  "musicgen": "musicgen",
  "musicgen_melody": "musicgen",
}


def read(
  path: str | pathlib.Path, preset: str | None = None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
  """A public model, as the contents of a bundle.

  Args:
    path: folder with config.json (of transformers) and model.safetensors, or
      the latter's name; or weights of an original release alone: a .safetensors
      file, or a folder with one, or with the parts of a MusicGen (see
      `mmdcodec.convert.musicgen_release`).
    preset: of the codec or language model, that tells what such weights can't,
      see `mmdcodec.convert.encodec.guess`.

  Returns:
    (config, variables, further files by name); `config["source"]` says where
    they come from.

  Raises:
    UserError: no model that is known here, or not all of it.
  """
  import importlib

  from mmdcodec.convert import musicgen_release, weights

  path = pathlib.Path(path)
  if path.is_file():
    folder, arrays, config = path.parent, weights.read(path), None
    # Weights of a release may lie beside a config.json that isn't theirs.
    if weights.named_by_transformers(arrays):
      beside = weights.read_config(folder)
      config = beside if is_public(beside) else None
  else:
    folder, config = path, weights.read_config(path)
    arrays = weights.read(path) if config is None else None
  if config is not None:
    kind = config.get("model_type")
  else:
    kind = "musicgen" if musicgen_release.named_so(arrays) else "encodec"
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
  found, variables, assets = module.bundled(arrays, config, preset, folder)
  source = {"name": weights.name_of(path), "config": config, "preset": preset}
  return {**found, "source": source}, variables, assets


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
