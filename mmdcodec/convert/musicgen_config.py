"""Converts the config.json of a MusicGen (transformers) to our fields."""

import contextlib
from collections.abc import Iterator
from typing import Any

from mmdcodec.bounds import declared, null_or, number, one_of, whole
from mmdcodec.convert import encodec_config, t5
from mmdcodec.convert.fields import check_known, get, refused
from mmdcodec.errors import UserError
from mmdcodec.models import codec as codec_model
from mmdcodec.models import token_lm
from mmdcodec.models.lm_presets import CHROMA
from mmdcodec.models.melody_condition import Melody
from mmdcodec.nn.transformer import Transformer
from mmdcodec.tokenizers.stereo_codec import FLAG, SIDES

# Seconds of the training clips of all published models; configs lack it.
SECONDS = 30
# Tokens per text that T5 was trained on.
LONGEST_TEXT = 512

# Field of a decoder's config -> (our field, default).
FIELDS: dict[str, tuple[str, Any]] = {
  "vocab_size": ("codebook_size", 2048),
  "num_codebooks": ("codebooks", 4),
  "num_hidden_layers": ("layers", 24),
  "num_attention_heads": ("heads", 16),
  "hidden_size": ("width", 1024),
  "ffn_dim": ("hidden", 4096),
  "activation_function": ("activation", "gelu"),
  "dropout": ("dropout", 0.1),
}
CHECKS = {**declared(Transformer), **declared(token_lm.TokenLM)}

# Fields with the same value in every published model, or without effect here,
# because they only affect training or because any length can be computed.
OTHERS = {
  "scale_embedding": one_of([False]),
  "tie_word_embeddings": one_of([False]),
  "cross_attention_hidden_size": one_of([None]),
  "max_position_embeddings": whole(1, 1 << 24),
  "attention_dropout": number(0, 1),
  "activation_dropout": number(0, 1),
  "layerdrop": number(0, 1),
  "initializer_factor": number(0, 1e3),
}

# Fields of the whole model: its parts, and those of melody models.
PARTS = {"text_encoder": "t5", "audio_encoder": "encodec", "decoder": None}
MELODY = {
  "num_chroma": (CHROMA["classes"], declared(Melody)["classes"]),
  "chroma_length": (CHROMA["frames"], declared(Melody)["frames"]),
}

# Fields that earlier versions of transformers wrote for every model and part,
# mostly about text generation. They do not affect the networks.
BOOKKEEPING = {
  *encodec_config.BOOKKEEPING,
  "add_cross_attention",
  "bad_words_ids",
  "begin_suppress_tokens",
  "bos_token_id",
  "cross_attention_hidden_size",
  "decoder_start_token_id",
  "diversity_penalty",
  "do_sample",
  "early_stopping",
  "encoder_no_repeat_ngram_size",
  "eos_token_id",
  "exponential_decay_length_penalty",
  "finetuning_task",
  "forced_bos_token_id",
  "forced_eos_token_id",
  "initializer_factor",
  "is_decoder",
  "length_penalty",
  "max_length",
  "min_length",
  "no_repeat_ngram_size",
  "num_beam_groups",
  "num_beams",
  "num_return_sequences",
  "output_scores",
  "pad_token_id",
  "prefix",
  "pruned_heads",
  "remove_invalid_values",
  "repetition_penalty",
  "return_dict_in_generate",
  "sep_token_id",
  "suppress_tokens",
  "task_specific_params",
  "temperature",
  "tf_legacy_loss",
  "tie_encoder_decoder",
  "tie_word_embeddings",
  "tokenizer_class",
  "top_k",
  "top_p",
  "torchscript",
  "typical_p",
  "use_bfloat16",
}


def fields_of(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Converts a config.json of transformers to fields of TokenLM and Codec.

  Args:
    config: the parsed config.json.

  Returns:
    (fields of the TokenLM, fields of the Codec).

  Raises:
    UserError: a field is unknown, or its value is not supported.
  """
  melody = config.get("model_type") == "musicgen_melody"
  _known(config, {*PARTS, *(MELODY if melody else ())})
  for name, kind in PARTS.items():
    part = config.get(name)
    if not isinstance(part, dict):
      raise refused(name, part, "the config of this part")
    found = part.get("model_type", kind)
    if kind is not None and found != kind:
      raise UserError(
        f"the {name} of this MusicGen is of type {found!r}; only {kind} is"
        " supported."
      )
  more: dict[str, Any] = {}
  with within("text_encoder"):
    text = text_fields(t5.fields_of(config["text_encoder"]))
    more["conditions"] = {"text": text}
  with within("audio_encoder"):
    codec = encodec_config.fields_of(codec_config(config))
  if melody:
    heard = {key: get(config, key, *rest) for key, rest in MELODY.items()}
    more["cross"] = False
    more["conditions"]["melody"] = CHROMA | dict(
      classes=heard["num_chroma"], frames=heard["chroma_length"]
    )
  with within("decoder"):
    fields = decoder_fields(config["decoder"], **more)
  fields["frames"] = frames_of(codec)
  return fields, codec


def codec_config(config: dict[str, Any]) -> dict[str, Any]:
  """Returns the config of the codec, as in a separate config.json."""
  codec = config["audio_encoder"]
  return {key: codec[key] for key in codec if key not in BOOKKEEPING}


def decoder_fields(config: dict[str, Any], **more: Any) -> dict[str, Any]:
  """Converts the config of a separate decoder to fields of a TokenLM.

  Args:
    config: config of the decoder.
    **more: fields that are not in the config: `conditions`, `cross`.

  Returns:
    Fields of the TokenLM.

  Raises:
    UserError: a field is unknown, or its value is not supported.
  """
  _known(config, {*FIELDS, *OTHERS, "audio_channels"})
  fields = {
    ours: get(config, key, default, CHECKS[ours])
    for key, (ours, default) in FIELDS.items()
  }
  for key, check in OTHERS.items():
    get(config, key, None, check)
  # The token for a step without a code follows all codes.
  special = null_or(one_of([fields["codebook_size"]]))
  for key in ("pad_token_id", "bos_token_id"):
    get(config, key, None, special)
  if get(config, "audio_channels", 1, one_of([1, 2])) == 2:
    more["pattern"] = stereo_pattern(fields["codebooks"])
  # All other fields are the same in the published models.
  return token_lm.preset(
    "musicgen_small", **{"conditions": {}, **fields, **more}
  )


def stereo_pattern(codebooks: int) -> dict[str, Any]:
  """Returns the pattern of stereo models: k steps of delay for codebook k.

  Args:
    codebooks: number of codebooks, alternating between left and right.

  Returns:
    Config of the pattern.

  Raises:
    UserError: the number is odd.
  """
  if codebooks % SIDES:
    raise refused("num_codebooks", codebooks, "an even number, for two sides")
  return dict(name="delay", delays=[k // SIDES for k in range(codebooks)])


def codec_of(
  codec: dict[str, Any], codebooks: int, channels: int
) -> dict[str, Any]:
  """Makes the config of a codec in a bundle.

  Args:
    codec: fields of the Codec.
    codebooks: number of codebooks of the language model.
    channels: channels of the audio; 2 means a mono codec for each side.

  Raises:
    UserError: the numbers do not fit together.
  """
  found: dict[str, Any] = {"kind": "codec", "model": codec}
  if channels == 1:
    return found
  if codec["channels"] != 1 or codebooks != SIDES * codec["codebooks"]:
    raise UserError(
      f"the decoder of this MusicGen has {codebooks} codebooks for two sides,"
      f" but its codec has {codec['codebooks']} for {codec['channels']}:"
      " expected a mono codec with half as many."
    )
  return {**found, FLAG: True}


def text_fields(encoder: dict[str, Any]) -> dict[str, Any]:
  """Returns the condition of a TokenLM with this T5 encoder."""
  return dict(tokenizer="t5", longest=LONGEST_TEXT, encoder=encoder)


def frames_of(codec: dict[str, Any]) -> int:
  """Returns the frames in the training clips of a MusicGen."""
  return round(SECONDS * codec_model.from_config(codec).frame_rate)


@contextlib.contextmanager
def within(part: str) -> Iterator[None]:
  """Adds the part of the model to the message of a UserError."""
  try:
    yield
  except UserError as error:
    raise UserError(f"the {part} of this MusicGen: {error}") from None


def _known(config: dict[str, Any], names: set[str]) -> None:
  check_known(config, names | BOOKKEEPING, "MusicGen")
