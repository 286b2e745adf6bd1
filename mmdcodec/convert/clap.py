"""Converts LAION-CLAP from transformers, without feature fusion.

The published files hold lists of numbers beside the weights (positions, a count
of batches), which are ignored. The two filter banks of transformers' front end
differ: models without fusion use Slaney's, from 50 Hz on.
"""

import pathlib
from typing import Any

import numpy as np

from mmdcodec.bounds import declared, one_of, whole
from mmdcodec.convert import bert as bert_converter
from mmdcodec.convert import fields, layouts, weights
from mmdcodec.convert.musicgen_config import within
from mmdcodec.convert.weights import Rule
from mmdcodec.errors import UserError
from mmdcodec.models import clap, htsat, text_tokens
from mmdcodec.models.bert import Bert
from mmdcodec.models.text_tokens import TOKENIZER_FILE
from mmdcodec.store import inputs

FRONT_END = "preprocessor_config.json"
# Field of the audio tower in transformers' config -> (ours, default).
AUDIO_FIELDS = {
  "num_mel_bins": ("mels", 64),
  "spec_size": ("side", 256),
  "patch_size": ("patch", 4),
  "patch_embeds_hidden_size": ("width", 96),
  "depths": ("depths", [2, 2, 6, 2]),
  "num_attention_heads": ("heads", [4, 8, 16, 32]),
  "window_size": ("window", 8),
  "mlp_ratio": ("expansion", 4.0),
  "layer_norm_eps": ("epsilon", 1e-5),
}
ENCODER = "audio_model.audio_encoder."
BATCH_NORM_EPSILON = 1e-5


def bundled(
  arrays: dict[str, np.ndarray],
  config: dict[str, Any] | None,
  preset: str | None,
  folder: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
  """Makes the contents of a bundle with these weights.

  Args:
    arrays: tensors by name, as in the file.
    config: config.json of transformers.
    preset: not used.
    folder: folder of the weights and their other files.

  Returns:
    (config, variables, other files by name).

  Raises:
    UserError: a field or tensor is unknown, missing, or left over, or the
      tokenizer of texts is missing.
  """
  del preset
  file = folder / TOKENIZER_FILE
  if not file.is_file():
    raise UserError(
      f"{folder} holds no {TOKENIZER_FILE}, the tokenizer of texts: put that of"
      " the model, or of RoBERTa, there."
    )
  assets = {TOKENIZER_FILE: inputs.read_bytes(file)}
  text_tokens.make_tokenizer("roberta", assets)
  found, variables = convert(arrays, config or {})
  front = folder / FRONT_END
  if front.is_file():
    found |= front_end(inputs.read_object(front))
  return {"kind": "clap", "model": found}, variables, assets


def front_end(config: dict[str, Any]) -> dict[str, float]:
  """Checks a preprocessor_config.json and returns what of it can differ.

  Raises:
    UserError: the value of a field is not supported.
  """
  for name, value in (
    ("sampling_rate", clap.RATE),
    ("fft_window_size", clap.WINDOW),
    ("hop_length", clap.HOP),
    ("max_length_s", clap.SECONDS),
    ("top_db", None),
  ):
    fields.get(config, name, value, one_of([value]))
  checks = declared(clap.Clap)
  return {
    "fmin": fields.get(config, "frequency_min", 50.0, checks["fmin"]),
    "fmax": fields.get(config, "frequency_max", 14_000.0, checks["fmax"]),
  }


def fields_of(config: dict[str, Any]) -> dict[str, Any]:
  """Converts a config.json to fields of our CLAP.

  Fields that do not affect embeddings (dropout, initialisation and others) are
  ignored.

  Raises:
    UserError: the value of a field is not supported.
  """
  dim = fields.get(config, "projection_dim", 512, whole(1, 1 << 14))
  with within("audio_config"):
    audio_config = _mapping(config, "audio_config")
    checks = declared(htsat.HTSAT)
    audio = fields.renamed(audio_config, AUDIO_FIELDS, checks)
    patch = audio["patch"]
    stride = [patch, patch]
    fields.get(audio_config, "patch_stride", stride, one_of([stride, patch]))
    for name, value in (
      ("enable_fusion", False),
      ("enable_patch_layer_norm", True),
      ("qkv_bias", True),
      ("flatten_patch_embeds", True),
      ("patch_embed_input_channels", 1),
      ("hidden_act", "gelu"),
      ("projection_hidden_act", "relu"),
    ):
      fields.get(audio_config, name, value, one_of([value]))
    fields.get(audio_config, "projection_dim", dim, one_of([dim]))
  with within("text_config"):
    text_config = _mapping(config, "text_config")
    text = bert_converter.fields_of(
      {
        # transformers' defaults for this tower are RoBERTa's.
        "vocab_size": 50_265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        **text_config,
      }
    )
    fields.get(text_config, "projection_hidden_act", "", one_of(["relu"]))
    fields.get(text_config, "projection_dim", dim, one_of([dim]))
    padding = fields.get(text_config, "pad_token_id", 1, whole(0, 15))
  text["first_position"] = padding + 1
  return {"audio": audio, "text": text, "dim": dim}


def _mapping(config: dict[str, Any], name: str) -> dict[str, Any]:
  found = config.get(name, {})
  if not isinstance(found, dict):
    raise UserError(f"config.json has no mapping {name}.")
  return found


def convert(
  arrays: dict[str, np.ndarray], config: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Converts a public CLAP.

  Args:
    arrays: tensors by name, as in the file.
    config: config.json of transformers.

  Returns:
    (fields of the Clap, variables).

  Raises:
    UserError: a field or tensor is unknown, missing, or left over.
  """
  found = fields_of(config)
  model = clap.from_config(found)
  ignored = (
    ".relative_position_index",
    ".num_batches_tracked",
    ".position_ids",
    ".token_type_ids",
  )
  arrays = {n: a for n, a in arrays.items() if not n.endswith(ignored)}
  like = clap.shapes({"model": found})
  return found, weights.fill(rules(model), arrays, like)


def rules(model: clap.Clap) -> list[Rule]:
  """Returns the rules for the tensors of a CLAP."""
  text = Bert(**model.text, parent=None)
  out = [
    Rule(
      tuple(_moved(target) for target in rule.targets),
      tuple(f"text_model.{name}" for name in rule.names),
      rule.make,
    )
    for rule in bert_converter.rules(text)
  ]
  out += _dense("params/text_pool", "text_model.pooler.dense")
  for tower in ("audio", "text"):
    out += _dense(f"params/{tower}_in", f"{tower}_projection.linear1")
    out += _dense(f"params/{tower}_out", f"{tower}_projection.linear2")
  scales = ("logit_scale_a", "logit_scale_t")
  out.append(Rule(("params/log_scale",), scales, lambda *a: (np.stack(a),)))
  return out + tower_rules(htsat.HTSAT(**model.audio, parent=None))


def _moved(path: str) -> str:
  return path.replace("params/", "params/text_tower/", 1)


def _dense(to: str, key: str, *, bias: bool = True) -> list[Rule]:
  kernel = Rule((f"{to}/kernel",), (f"{key}.weight",), lambda a: (a.T,))
  return [kernel, Rule((f"{to}/bias",), (f"{key}.bias",))][: 1 + bias]


def _norm(to: str, key: str) -> list[Rule]:
  scale = Rule((f"{to}/scale",), (f"{key}.weight",))
  return [scale, Rule((f"{to}/bias",), (f"{key}.bias",))]


def tower_rules(model: htsat.HTSAT) -> list[Rule]:
  """Returns the rules for the tensors of the audio tower."""
  to = "params/audio_tower"
  # [out, in, rows, columns] -> [rows, columns, in, out].
  kernel = lambda a: (a.transpose(2, 3, 1, 0),)
  patches = f"{ENCODER}patch_embed"
  ends = ("weight", "bias", "running_mean", "running_var")
  out = [
    Rule((f"{to}/patches/kernel",), (f"{patches}.proj.weight",), kernel),
    Rule((f"{to}/patches/bias",), (f"{patches}.proj.bias",)),
    *_norm(f"{to}/patch_norm", f"{patches}.norm"),
    *_norm(f"{to}/norm", f"{ENCODER}norm"),
    layouts.batch_norm(
      (f"{to}/mel_scale", f"{to}/mel_bias"),
      tuple(f"{ENCODER}batch_norm.{end}" for end in ends),
      epsilon=BATCH_NORM_EPSILON,
    ),
  ]
  for stage, depth in enumerate(model.depths):
    layer = f"{ENCODER}layers.{stage}"
    for i in range(depth):
      heads = model.heads[stage]
      path, key = f"{to}/stage_{stage}_block_{i}", f"{layer}.blocks.{i}"
      out += _block(path, key, heads, model.width * 2**stage // heads)
    if stage < len(model.depths) - 1:
      path, key = f"{to}/stage_{stage}_merge", f"{layer}.downsample"
      out += _dense(path, f"{key}.reduction", bias=False)
      out += _norm(f"{path}_norm", f"{key}.norm")
  return out


def _block(to: str, key: str, heads: int, dim: int) -> list[Rule]:
  """Returns the rules for a block of the audio tower."""
  split = layouts.Heads(heads, dim)
  into = lambda a: (split.into(a),)
  flat = lambda a: (split.bias(a),)
  out_of = lambda a: (split.back(a),)
  attention = f"{key}.attention"
  bias = f"{attention}.self.relative_position_bias_table"
  out = [
    Rule((f"{to}/distance_bias",), (bias,)),
    *_norm(f"{to}/attention_norm", f"{key}.layernorm_before"),
    *_norm(f"{to}/feed_norm", f"{key}.layernorm_after"),
    *_dense(f"{to}/inner", f"{key}.intermediate.dense"),
    *_dense(f"{to}/outer", f"{key}.output.dense"),
    Rule((f"{to}/out/kernel",), (f"{attention}.output.dense.weight",), out_of),
    Rule((f"{to}/out/bias",), (f"{attention}.output.dense.bias",)),
  ]
  for name in ("query", "key", "value"):
    theirs = f"{attention}.self.{name}"
    out.append(Rule((f"{to}/{name}/kernel",), (f"{theirs}.weight",), into))
    out.append(Rule((f"{to}/{name}/bias",), (f"{theirs}.bias",), flat))
  return out
