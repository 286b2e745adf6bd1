"""Converts the config.json of an EnCodec (transformers) to our fields."""

import math
from typing import Any

from mmdcodec.bounds import (
  Check,
  declared,
  list_of,
  null_or,
  number,
  one_of,
  whole,
)
from mmdcodec.convert.fields import check_known, get, refused
from mmdcodec.models import codec as codec_model
from mmdcodec.models.seanet import Network
from mmdcodec.quantize.residual import MOST_CODEBOOKS

# Field of transformers' config -> (our field, default in old configs).
FIELDS: dict[str, tuple[str, Any]] = {
  "sampling_rate": ("rate", 24000),
  "audio_channels": ("channels", 1),
  "normalize": ("normalize", False),
  "hidden_size": ("dim", 128),
  "num_filters": ("filters", 32),
  "upsampling_ratios": ("ratios", (8, 5, 4, 2)),
  "kernel_size": ("kernel", 7),
  "last_kernel_size": ("last_kernel", 7),
  "residual_kernel_size": ("residual_kernel", 3),
  "use_causal_conv": ("causal", True),
  "compress": ("compress", 2),
  "num_lstm_layers": ("lstm_layers", 2),
  "trim_right_ratio": ("trim_right_ratio", 1.0),
  "codebook_size": ("codebook_size", 1024),
}
CHECKS = {
  **declared(Network),
  **declared(codec_model.Codec),
  # A network of transformers always has an LSTM.
  "lstm_layers": whole(1, 16),
}

# Field -> (our field, default, {their value: ours}).
CHOICES: dict[str, tuple[str, Any, dict[Any, str]]] = {
  "norm_type": (
    "norm",
    "weight_norm",
    {"weight_norm": "weight", "time_group_norm": "time_group"},
  ),
  "pad_mode": (
    "pad_mode",
    "reflect",
    {"reflect": "reflect", "constant": "constant"},
  ),
  "use_conv_shortcut": (
    "shortcut",
    True,
    {True: "conv", False: "identity"},
  ),
}

# Fields that are combined into ours: (default, check).
OTHERS: dict[str, tuple[Any, Check]] = {
  "target_bandwidths": (
    (1.5, 3.0, 6.0, 12.0, 24.0),
    list_of(number(0, 1e5), 64),
  ),
  "num_residual_layers": (1, whole(1, 8)),
  "dilation_growth_rate": (2, whole(1, 8)),
  "chunk_length_s": (None, null_or(number(0, 3600))),
  "overlap": (None, null_or(number(0, 0.99))),
  "codebook_dim": (None, null_or(whole(1, 1 << 14))),
}

# Fields in every config of transformers that do not affect the network.
BOOKKEEPING = (
  "_attn_implementation_autoset",
  "_commit_hash",
  "_name_or_path",
  "architectures",
  "auto_map",
  "chunk_size_feed_forward",
  "dtype",
  "id2label",
  "is_encoder_decoder",
  "label2id",
  "model_type",
  "output_attentions",
  "output_hidden_states",
  "problem_type",
  "return_dict",
  "torch_dtype",
  "transformers_version",
  "use_cache",
)


def fields_of(config: dict[str, Any]) -> dict[str, Any]:
  """Converts a config.json of transformers to fields of the Codec.

  Args:
    config: the parsed config.json.

  Returns:
    Fields of the Codec.

  Raises:
    UserError: a field is unknown, or its value is not supported.
  """
  check_known(config, {*FIELDS, *CHOICES, *OTHERS, *BOOKKEEPING}, "EnCodec")
  fields: dict[str, Any] = {}
  for key, (ours, default) in FIELDS.items():
    value = get(config, key, default, CHECKS[ours])
    fields[ours] = tuple(value) if isinstance(value, list) else value
  for key, (ours, default, values) in CHOICES.items():
    fields[ours] = values[get(config, key, default, one_of(values))]
  others = {key: get(config, key, *rest) for key, rest in OTHERS.items()}
  stride = math.prod(fields["ratios"])

  if fields["compress"] > fields["filters"]:
    raise refused("compress", fields["compress"], "at most num_filters")
  if stride > 1 << 20:
    ratios = config["upsampling_ratios"]
    raise refused("upsampling_ratios", ratios, "a product of at most 2^20")
  growth, layers = others["dilation_growth_rate"], others["num_residual_layers"]
  fields["dilations"] = tuple(growth**i for i in range(layers))
  if others["codebook_dim"] not in (None, fields["dim"]):
    raise refused("codebook_dim", others["codebook_dim"], "hidden_size")

  seconds, overlap = others["chunk_length_s"], others["overlap"]
  if seconds is not None:
    if seconds * fields["rate"] < stride:
      raise refused("chunk_length_s", seconds, "at least one frame")
    if overlap is None:
      raise refused("overlap", None, "a number, because chunk_length_s is set")
    fields["overlap"] = overlap
  fields["chunk_seconds"] = seconds or 0.0

  kbps = others["target_bandwidths"]
  # The largest bandwidth; bits and frame rate are rounded up as in the source.
  frames = math.ceil(fields["rate"] / stride)
  bits = math.ceil(math.log2(fields["codebook_size"]))
  fields["codebooks"] = int(1000 * max(kbps) // (frames * bits))
  if not 1 <= fields["codebooks"] <= MOST_CODEBOOKS:
    wanted = f"kbps of 1 to {MOST_CODEBOOKS} codebooks"
    raise refused("target_bandwidths", kbps, wanted)
  # If there are several bandwidths, training sampled from them.
  fields["quantizer_dropout"] = float(len(kbps) > 1)
  return codec_model.preset("encodec_24khz", **fields)
