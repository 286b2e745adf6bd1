"""Converts public weights of MusicGen (arXiv 2306.05284) to our music model.

A public file has all parts of the model, with the names of transformers:

  text_encoder.*            a T5 encoder (t5.py)
  audio_encoder.*           its EnCodec (encodec.py)
  enc_to_dec_proj           text to the decoder's width, if they differ
  audio_enc_to_dec_proj     pitch classes to that width, in melody models
  decoder.*                 the language model (musicgen_decoder.py)

musicgen_release.py converts weights of the authors' own release.
"""

import pathlib
from typing import Any

import numpy as np

from mmdcodec.convert import (
  encodec,
  musicgen_config,
  musicgen_decoder,
  musicgen_release,
  t5,
)
from mmdcodec.convert.musicgen_config import within
from mmdcodec.convert.weights import part
from mmdcodec.errors import UserError
from mmdcodec.models.text_tokens import TOKENIZER_FILE
from mmdcodec.store import inputs


def bundled(
  arrays: dict[str, np.ndarray],
  config: dict[str, Any] | None,
  preset: str | None,
  folder: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
  """Makes the contents of a bundle with these weights.

  Args:
    arrays: tensors by name.
    config: config.json of transformers; None for a release.
    preset: for a release, preset of the language model, as in
      `musicgen_release.convert`.
    folder: folder of the weights and their other files.

  Returns:
    (config, variables, other files by name).

  Raises:
    UserError: a field or tensor is unknown, missing, or left over, or a file is
      missing.
  """
  # The tokenizer comes first because reading the model takes long.
  text_folder = musicgen_release.TEXT_FOLDER if config is None else "."
  assets = {TOKENIZER_FILE: tokenizer(folder / text_folder)}
  if config is None:
    fields, codec, variables = musicgen_release.convert(arrays, preset, folder)
    channels = musicgen_release.channels(fields, codec)
  else:
    fields, codec, variables = convert(arrays, config)
    channels = config["decoder"].get("audio_channels", 1)
  out = {
    "kind": "lm",
    "model": fields,
    "codec": musicgen_config.codec_of(codec, fields["codebooks"], channels),
  }
  return out, variables, assets


def tokenizer(folder: pathlib.Path) -> bytes:
  """Reads the text tokenizer's file.

  Raises:
    UserError: the folder does not have one.
  """
  file = folder / TOKENIZER_FILE
  if file.is_file():
    return inputs.read_bytes(file)
  spiece = (folder / "spiece.model").is_file()
  raise UserError(
    f"{folder} holds no {TOKENIZER_FILE}"
    + (" (its spiece.model is not enough)" if spiece else "")
    + ", the tokenizer of prompts: put that of the model's T5 there"
    " (google-t5/t5-base for the published models)."
  )


def convert(
  arrays: dict[str, np.ndarray], config: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
  """Converts a public MusicGen with the names of transformers.

  Args:
    arrays: tensors by name, as in the file.
    config: config.json of transformers.

  Returns:
    (fields of the TokenLM, fields of the Codec, `{"params": of the TokenLM,
    "codec": variables of the Codec}`).

  Raises:
    UserError: a field or tensor is unknown, missing, or left over.
  """
  fields, _ = musicgen_config.fields_of(config)
  with within("text_encoder"):
    _, text = t5.convert(part(arrays, "text_encoder."), config["text_encoder"])
  with within("audio_encoder"):
    codec, codec_variables = encodec.convert(
      part(arrays, "audio_encoder."), musicgen_config.codec_config(config)
    )
  others = ("text_encoder.", "audio_encoder.", "decoder.")
  decoder = part(arrays, "decoder.") | {
    name: a for name, a in arrays.items() if not name.startswith(others)
  }
  with within("decoder"):
    params = musicgen_decoder.convert(decoder, fields, text["params"])
  return fields, codec, {"params": params, "codec": codec_variables}
