"""Converts public weights to our models, one file per public model.

  encodec.py          EnCodec at 24, 32 and 48 kHz
  encodec_config.py   converts its config.json to fields of our codec
  musicgen.py         MusicGen with its text encoder and codec, with or without
                      melody
  musicgen_config.py  converts its config.json to fields of our models
  musicgen_decoder.py its language model
  musicgen_release.py weights of the authors' own release
  bert.py             text encoders of BERT's form, such as MiniLM
  clap.py             LAION-CLAP, an embedding of audio and text
  musicnn.py          musicnn, a tagger of music
  tf_checkpoint.py    reads tensors from TensorFlow's checkpoints
  w2v_bert.py         w2v-BERT 2.0, a network for semantic tokens
  hubert.py           HuBERT and MERT, likewise
  musicfm.py          MusicFM, likewise
  t5.py               T5 encoders, as parts of other models; `read` does not
                      convert them, but training can start from one
  conformer.py        conformer blocks, as parts of other models
  layouts.py          how layers of PyTorch are laid out in ours
  fields.py           checks the fields of a config.json
  weights.py          reads tensors from safetensors files; uses each once
  hub.py              downloads folders from the Hugging Face Hub

`read` opens a folder of public weights; `mmdcodec convert` saves the result as
a bundle, `mmdcodec.load` runs it.
"""

import pathlib
from typing import Any

from mmdcodec.errors import UserError
from mmdcodec.store import paths

# transformers' `model_type` -> module of this package with `bundled(arrays,
# config, preset, folder)`. MusicFM has a release of its authors only.
KINDS = {
  "bert": "bert",
  "clap": "clap",
  "encodec": "encodec",
  "hubert": "hubert",
  "mert_model": "hubert",
  "musicfm": "musicfm",
  "musicgen": "musicgen",
  "musicgen_melody": "musicgen",
  "musicnn": "musicnn",
  "wav2vec2-bert": "w2v_bert",
}


def read(
  path: str | pathlib.Path, preset: str | None = None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
  """Reads a public model as the contents of a bundle.

  Args:
    path: folder with config.json (of transformers) and model.safetensors, or
      the path of the latter; or a folder of the package musicnn. For an
      original release: a .safetensors file, a folder with one, or a folder
      with the parts of a MusicGen (`mmdcodec.convert.musicgen_release`) or
      with a MusicFM and its statistics (`mmdcodec.convert.musicfm`).
    preset: preset of the codec or language model, for settings that do not
      follow from a release's weights (`mmdcodec.convert.encodec.guess`).

  Returns:
    (config, variables, other files by name); `config["source"]` is the origin
    of the weights.

  Raises:
    UserError: the model is unknown or incomplete.
  """
  import importlib

  from mmdcodec.convert import (
    musicfm,
    musicgen_release,
    musicnn,
    tf_checkpoint,
    weights,
  )

  path = paths.of(path)
  arrays: dict[str, Any] | None
  if path.is_file():
    folder, arrays, config = path.parent, weights.read(path), None
    # Weights of a release may be next to an unrelated config.json.
    if weights.named_by_transformers(arrays):
      beside = weights.read_config(folder)
      config = beside if is_public(beside) else None
  else:
    folder, config = path, weights.read_config(path)
    arrays = weights.read(path) if config is None else None
  if config is not None:
    kind = "musicnn" if _is_musicnn(config) else config.get("model_type")
  elif arrays is not None and musicgen_release.is_release(arrays):
    kind = "musicgen"
  elif arrays is not None and musicfm.is_release(arrays):
    kind = "musicfm"
  else:
    kind = "encodec"
  if kind is None and config is not None and "kind" in config:
    raise UserError(
      f"{path} is a bundle of mmdcodec already: give it as --model as it is."
    )
  if not isinstance(kind, str) or kind not in KINDS:
    raise UserError(
      f"{path} holds a model of type {kind!r}; what can be converted is"
      f" {', '.join(KINDS)}."
    )
  if config is not None and preset is not None:
    raise UserError(
      f"{path} has a config.json that describes the model: omit --preset."
    )
  if kind == "musicnn":
    index = tf_checkpoint.find(folder)
    arrays = tf_checkpoint.read(index, without=musicnn.OPTIMIZER)
  elif arrays is None:
    arrays = weights.read(path)
  module = importlib.import_module(f"mmdcodec.convert.{KINDS[kind]}")
  found, variables, assets = module.bundled(arrays, config, preset, folder)
  source = {"name": weights.name_of(path), "config": config, "preset": preset}
  return {**found, "source": source}, variables, assets


def read_release(
  folder: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]] | None:
  """Like `read`, for weights that say without a config.json what they are.

  Returns:
    None if they do not. MusicFM's do; those of a codec's release could also be
    of a damaged bundle.
  """
  from mmdcodec.convert import musicfm, weights

  if not musicfm.is_release(weights.read(folder)):
    return None
  return read(folder)


def is_public(config: Any) -> bool:
  """Returns whether a config.json is not from a bundle, but from others."""
  return (
    isinstance(config, dict)
    and ("model_type" in config or _is_musicnn(config))
    and "kind" not in config
  )


def _is_musicnn(config: dict[str, Any]) -> bool:
  """Returns whether a config.json is that of a training of musicnn."""
  return "model_number" in config and isinstance(config.get("audio_rep"), dict)


def spare(folder: str | pathlib.Path) -> None:
  """Checks that a folder to be written has no public weights.

  Their files are named like those of a bundle, so a bundle would replace them.

  Args:
    folder: folder to write or replace.

  Raises:
    UserError: the folder has public weights.
  """
  from mmdcodec.convert import weights

  try:
    config = weights.read_config(paths.of(folder).resolve())
  except UserError:  # no JSON: damaged, but not public weights
    return
  if is_public(config):
    raise UserError(
      f"{folder} holds public weights, which are never replaced: choose another"
      " name."
    )
