"""MusicGen (arXiv 2306.05284): public weights to a music model of ours.

A public file holds all parts of the model in transformers' names:

  text_encoder.*            an encoder of T5, see t5.py
  audio_encoder.*           the EnCodec whose codes it speaks, see encodec.py
  enc_to_dec_proj           text to the width of the decoder, if they differ
  audio_enc_to_dec_proj     pitch classes to it, in a model for melodies
  decoder.*                 the language model, see musicgen_decoder.py

Weights of the authors' own release: see musicgen_release.py.
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


def bundled(
  arrays: dict[str, np.ndarray],
  config: dict[str, Any] | None,
  preset: str | None,
  folder: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
  """What a bundle of these weights holds.

  Args:
    arrays: tensors by name.
    config: config.json of transformers; None for a release.
    preset: of the language model, for a release; see `musicgen_release`.
    folder: where they lie, with the files that belong to them.

  Returns:
    (config, variables, further files by name).

  Raises:
    UserError: a field or a tensor that is not understood, missing, or over; a
      file that is missing.
  """
  # First: models are large, and so are the files that are to be read.
  release = config is None
  beside = folder / musicgen_release.TEXT_FOLDER if release else folder
  assets = {TOKENIZER_FILE: tokenizer(beside)}
  if release:
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
  """The file that tells how prompts become tokens.

  Raises:
    UserError: it is not there.
  """
  file = folder / TOKENIZER_FILE
  if file.is_file():
    return file.read_bytes()
  spiece = (folder / "spiece.model").is_file()
  raise UserError(
    f"{folder} holds no {TOKENIZER_FILE}"
    + (" (its spiece.model is not enough)" if spiece else "")
    + ", which tells how prompts become tokens: put that of the model's T5"
    " (google-t5/t5-base for the published ones) there."
  )


def convert(
  arrays: dict[str, np.ndarray], config: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
  """A music model of ours with public weights in transformers' names.

  Args:
    arrays: tensors by name, as the file has them.
    config: config.json of transformers.

  Returns:
    (fields of the TokenLM, fields of the Codec, `{"params": of the TokenLM,
    "codec": variables of the Codec}`).

  Raises:
    UserError: a field or a tensor that is not understood, missing, or over.
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
