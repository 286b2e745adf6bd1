"""Converts MusicGen's weights from the authors' library, audiocraft.

Its `state_dict.bin` has only the language model. All parts must be in one
folder:

  model.safetensors         `best_state` of state_dict.bin
  text_encoder/             the T5: config.json, model.safetensors and
                            tokenizer.json (google-t5/t5-base)
  codec/                    the EnCodec, in any form that can be converted
                            (facebook/encodec_32khz)

`canonical` renames the tensors as in transformers and splits queries, keys and
values, which are one tensor here.
"""

import pathlib
import re
from typing import Any

import numpy as np

from mmdcodec.convert import (
  encodec,
  musicgen_config,
  musicgen_decoder,
  t5,
  weights,
)
from mmdcodec.convert.musicgen_config import within
from mmdcodec.errors import UserError
from mmdcodec.models import token_lm
from mmdcodec.models.lm_presets import CHROMA
from mmdcodec.tokenizers.stereo_codec import SIDES

TEXT_FOLDER, CODEC_FOLDER = "text_encoder", "codec"

# The published models, distinguished by their shapes.
PRESETS = (
  "musicgen_small",
  "musicgen_medium",
  "musicgen_large",
  "musicgen_melody",
)

CONDITIONERS = "condition_provider.conditioners"
NAMES = (
  (r"^emb\.", "model.decoder.embed_tokens."),
  (r"^linears\.", "lm_heads."),
  (r"^out_norm\.", "model.decoder.layer_norm."),
  (r"^transformer\.layers\.", "model.decoder.layers."),
  (r"\.norm1\.", ".self_attn_layer_norm."),
  (r"\.norm_cross\.", ".encoder_attn_layer_norm."),
  (r"\.norm2\.", ".final_layer_norm."),
  (r"\.linear([12])\.", r".fc\1."),
  (r"\.cross_attention\.", ".encoder_attn."),
  (rf"^{CONDITIONERS}\.description\.output_proj\.", "enc_to_dec_proj."),
  (rf"^{CONDITIONERS}\.self_wav\.output_proj\.", "audio_enc_to_dec_proj."),
)
# The filters of the chromagram, which we compute.
FILTERS = f"{CONDITIONERS}.self_wav.chroma."


def is_release(arrays: dict[str, np.ndarray]) -> bool:
  """Returns whether tensors are named like a released language model."""
  return "emb.0.weight" in arrays


def convert(
  arrays: dict[str, np.ndarray], preset: str | None, folder: pathlib.Path
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
  """Converts a released MusicGen.

  Args:
    arrays: tensors of the language model by name.
    preset: preset of the language model, for settings that shapes lack, such as
      the number of heads; None means the published model with the same shapes.
    folder: folder with the other parts.

  Returns:
    (fields of the TokenLM, fields of the Codec, variables), as in
    `musicgen.convert`.

  Raises:
    UserError: a part or tensor is unknown, missing, or left over.
  """
  arrays = canonical(arrays)
  fields = guess(arrays, preset)
  text_folder, codec_folder = folder / TEXT_FOLDER, folder / CODEC_FOLDER
  with within(TEXT_FOLDER):
    text_config = weights.read_config(text_folder)
    if text_config is None:
      raise UserError(f"{text_folder} holds no {weights.CONFIG_FILE} of a T5.")
    text_fields, text = t5.convert(weights.read(text_folder), text_config)
  with within(CODEC_FOLDER):
    config = weights.read_config(codec_folder)
    codec, codec_variables = encodec.convert(
      weights.read(codec_folder),
      config,
      None if config else "encodec_32khz",
    )
  if channels(fields, codec) == SIDES:
    pattern = musicgen_config.stereo_pattern(fields["codebooks"])
    fields["pattern"] = pattern
  text_condition = musicgen_config.text_fields(text_fields)
  fields["conditions"] = {**fields["conditions"], "text": text_condition}
  fields["frames"] = musicgen_config.frames_of(codec)
  params = musicgen_decoder.convert(arrays, fields, text["params"])
  return fields, codec, {"params": params, "codec": codec_variables}


def channels(fields: dict[str, Any], codec: dict[str, Any]) -> int:
  """Returns 2 channels if there are two heads per codebook, else 1.

  Args:
    fields: fields of the TokenLM.
    codec: fields of its Codec.
  """
  return SIDES if fields["codebooks"] == SIDES * codec["codebooks"] else 1


def canonical(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Renames the tensors as in transformers for a separate decoder."""
  out = {}
  for name, array in arrays.items():
    if name.startswith(FILTERS):
      continue
    for pattern, new in NAMES:
      name = re.sub(pattern, new, name)
    start = name.removesuffix("in_proj_weight")
    if start == name:
      out[name] = array
    elif len(array) % 3:
      raise UserError(
        f"{name} {array.shape} must be queries, keys and values in one tensor."
      )
    else:
      for letter, each in zip("qkv", np.split(array, 3), strict=True):
        out[f"{start}{letter}_proj.weight"] = each
  return out


def guess(
  arrays: dict[str, np.ndarray], preset: str | None = None
) -> dict[str, Any]:
  """Infers the fields of the TokenLM from the shapes of its tensors.

  Args:
    arrays: tensors by their canonical names.
    preset: as in `convert`.

  Returns:
    Fields of the TokenLM.

  Raises:
    UserError: the tensors are not from a MusicGen, or they match no published
      one and there is no preset.
  """
  layer = musicgen_decoder.LAYER
  try:
    size, width = arrays["lm_heads.0.weight"].shape
    hidden, _ = arrays[layer.format(0, "fc1.weight")].shape
  except (KeyError, ValueError):
    raise UserError(
      "these are not the weights of a MusicGen of the authors' release."
    ) from None
  melody = arrays.get("audio_enc_to_dec_proj.weight")
  count = lambda pattern: sum(
    bool(re.fullmatch(pattern, name)) for name in arrays
  )
  seen = dict(
    codebooks=count(r"lm_heads\.\d+\.weight"),
    codebook_size=size,
    width=width,
    hidden=hidden,
    layers=count(r"model\.decoder\.layers\.\d+\.fc1\.weight"),
    cross=layer.format(0, "encoder_attn.q_proj.weight") in arrays,
  )
  # Stereo models differ from mono models only in the number of codebooks.
  stereo = {"codebooks": 4} if seen["codebooks"] == SIDES * 4 else {}
  known = seen | stereo
  if preset is None:
    like = lambda name: (
      token_lm.preset(name).items() >= known.items()
      and ("melody" in token_lm.preset(name)["conditions"])
      == (melody is not None)
    )
    found = [name for name in PRESETS if like(name)]
    if len(found) != 1:
      raise UserError(
        "no published MusicGen has these shapes: give --preset with the name of"
        " the language model preset that has the heads and activation of these"
        f" weights, such as {PRESETS[0]}."
      )
    preset = found[0]
  found = token_lm.preset(preset, **seen)
  found["conditions"].pop("melody", None)
  if melody is not None:
    classes = melody.shape[-1]
    found["conditions"]["melody"] = CHROMA | {"classes": classes}
  return found
