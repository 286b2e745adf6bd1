"""Converts the encoders of T5, T5 1.1 and FLAN-T5 from transformers.

A complete T5 also has a decoder, whose tensors are ignored.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.bounds import declared, one_of
from mmdcodec.convert import fields, hub, layouts, weights
from mmdcodec.convert.weights import Rule, stacked
from mmdcodec.errors import UserError
from mmdcodec.models import text_encoder

# Field of transformers' config -> (our field, default).
FIELDS = {
  "vocab_size": ("vocabulary", 32_128),
  "d_model": ("width", 512),
  "num_layers": ("layers", 6),
  "num_heads": ("heads", 8),
  "d_kv": ("head_dim", 64),
  "d_ff": ("hidden", 2048),
  "relative_attention_num_buckets": ("buckets", 32),
  "relative_attention_max_distance": ("longest", 128),
}
# Type of feed-forward layer in transformers -> its activation.
FORMS = {"relu": "relu", "gated-gelu": "gelu_new"}

# The two names of the embedding table; a file has one or both.
TABLES = ("shared.weight", "encoder.embed_tokens.weight")


def fields_of(config: dict[str, Any]) -> dict[str, Any]:
  """Converts a config.json to fields of the encoder, with T5's defaults.

  Fields that do not affect the encoder (`n_positions`, `task_specific_params`
  and others in published files) are ignored.

  Args:
    config: the parsed config.json.

  Returns:
    Fields of the T5Encoder.

  Raises:
    UserError: the value of a field is not supported.
  """
  checks = declared(text_encoder.T5Encoder)
  found = fields.renamed(config, FIELDS, checks)
  if found["buckets"] % 2:
    raise fields.refused(
      "relative_attention_num_buckets", found["buckets"], "an even number"
    )
  if found["longest"] <= found["buckets"] // 4:
    raise fields.refused(
      "relative_attention_max_distance",
      found["longest"],
      "more than a quarter of relative_attention_num_buckets",
    )
  form = fields.get(config, "feed_forward_proj", "relu", one_of(FORMS))
  gated = form == "gated-gelu"
  # These follow from the form, but a file may contradict itself.
  fields.get(config, "dense_act_fn", None, one_of([FORMS[form]]))
  fields.get(config, "is_gated_act", gated, one_of([gated]))
  fields.get(config, "layer_norm_epsilon", 1e-6, one_of([1e-6]))
  return found | {"gated": gated}


def read(
  path: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any]] | None:
  """Reads a public encoder to start training from.

  Args:
    path: folder with config.json and model.safetensors of transformers, or an
      id on the Hugging Face Hub, such as "google-t5/t5-base".

  Returns:
    (fields of the T5Encoder, variables); None if the folder has no T5.

  Raises:
    UserError: the T5 is damaged, or not supported.
  """
  folder = hub.find(path)
  config = weights.read_config(folder) if is_t5(folder) else None
  return None if config is None else convert(weights.read(folder), config)


def is_t5(folder: pathlib.Path) -> bool:
  """Returns whether a folder has a T5 of transformers."""
  config = weights.read_config(folder) if folder.is_dir() else None
  return isinstance(config, dict) and config.get("model_type") == "t5"


def convert(
  arrays: dict[str, np.ndarray], config: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Converts a public T5 encoder.

  Args:
    arrays: tensors by name.
    config: config.json of transformers.

  Returns:
    (fields of the T5Encoder, variables).

  Raises:
    UserError: a field or tensor is unknown, missing, or left over.
  """
  found = fields_of(config)
  model = text_encoder.T5Encoder(**found)
  tokens = jnp.zeros((1, 2), jnp.int32)
  like = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens > 0)
  arrays = {
    name: array
    for name, array in arrays.items()
    if not name.startswith(("decoder.", "lm_head."))
  }
  return found, weights.fill(rules(model), _one_table(arrays), like)


def _one_table(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Keeps the embedding table only under its first name."""
  arrays = dict(arrays)
  again = arrays.pop(TABLES[1], None)
  if again is None:
    return arrays
  if not np.array_equal(arrays.setdefault(TABLES[0], again), again):
    raise UserError(f"{' and '.join(TABLES)} differ; a T5 has only one table.")
  return arrays


def rules(model: text_encoder.T5Encoder) -> list[Rule]:
  """Returns the rules for the tensors of an encoder."""
  block = "encoder.block.{}.layer.{}.{}.weight"
  heads = layouts.Heads(model.heads, model.head_dim)
  attention = "SelfAttention"
  out = [
    Rule(("params/embedding/embedding",), TABLES[:1]),
    Rule(
      ("params/distance_bias",),
      (block.format(0, 0, f"{attention}.relative_attention_bias"),),
    ),
    Rule(("params/norm/scale",), ("encoder.final_layer_norm.weight",)),
  ]
  feed = (
    {"inner": "wi"} if not model.gated else {"gate": "wi_0", "inner": "wi_1"}
  )
  layers: dict[str, tuple[int, str, layouts.Make]] = {
    "attention_norm/scale": (0, "layer_norm", layouts.same),
    "query/kernel": (0, f"{attention}.q", heads.into),
    "key/kernel": (0, f"{attention}.k", heads.into),
    "value/kernel": (0, f"{attention}.v", heads.into),
    "out/kernel": (0, f"{attention}.o", heads.back),
    "feed_norm/scale": (1, "layer_norm", layouts.same),
    "outer/kernel": (1, "DenseReluDense.wo", np.transpose),
  }
  for ours, theirs in feed.items():
    layers[f"{ours}/kernel"] = (1, f"DenseReluDense.{theirs}", np.transpose)
  for path, (layer, name, make) in layers.items():
    names = tuple(block.format(i, layer, name) for i in range(model.layers))
    out.append(Rule((f"params/blocks/{path}",), names, stacked(names, make)))
  return out
