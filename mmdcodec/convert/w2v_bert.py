"""Converts w2v-BERT 2.0 from transformers, a semantic tokenizer's network."""

import pathlib
from typing import Any

import numpy as np

from mmdcodec.audio import kaldi
from mmdcodec.bounds import declared, one_of
from mmdcodec.convert import conformer, fields, weights
from mmdcodec.convert.weights import Rule
from mmdcodec.models import semantic_networks, w2v_bert
from mmdcodec.nn.conformer import Conformer
from mmdcodec.store import inputs

# Field of transformers' config -> (our field, default).
FIELDS = {
  "hidden_size": ("width", 1024),
  "num_hidden_layers": ("layers", 24),
  "num_attention_heads": ("heads", 16),
  "intermediate_size": ("hidden", 4096),
  "conv_depthwise_kernel_size": ("kernel", 31),
  "left_max_position_embeddings": ("left", 64),
  "right_max_position_embeddings": ("right", 8),
}
POSITIONS = {
  "relative_key": "relative_key",
  "rotary": "rotary_input",
  None: "none",
}
# Used in training only.
IGNORED = ("masked_spec_embed",)
FRONT_END = "preprocessor_config.json"
# As in MusicLM (arXiv 2301.11325, 4.1), whose network is another one.
LAYER = 7


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
    UserError: a field is not supported, or a tensor is missing or left over.
  """
  del preset
  found = fields_of(config or {})
  if (folder / FRONT_END).is_file():
    front = inputs.read_object(folder / FRONT_END)
    for name, value in (
      ("sampling_rate", kaldi.RATE),
      ("num_mel_bins", found["mels"]),
      ("stride", w2v_bert.STACK),
    ):
      fields.get(front, name, value, one_of([value]))
  model = {"network": "w2v_bert", **found}
  return {"kind": "semantic", "model": model}, convert(arrays, model), {}


def fields_of(config: dict[str, Any]) -> dict[str, Any]:
  """Converts a config.json to fields of our w2v-BERT.

  Fields that do not affect its features (dropout, masks, adapters' sizes and
  others) are ignored.

  Raises:
    UserError: the value of a field is not supported.
  """
  checks = declared(Conformer)
  found = fields.renamed(config, FIELDS, checks)
  for name, value in (
    ("layer_norm_eps", 1e-5),
    ("rotary_embedding_base", 10_000),
    ("add_adapter", False),
  ):
    fields.get(config, name, value, one_of([value]))
  fields.get(config, "hidden_act", "swish", one_of(["swish", "silu"]))
  positions = fields.get(
    config, "position_embeddings_type", "relative_key", one_of(tuple(POSITIONS))
  )
  mels = declared(w2v_bert.W2vBert2)["mels"]
  size = config.get("feature_projection_input_dim", 160)
  if not mels.holds(size) or size % w2v_bert.STACK:
    raise fields.refused("feature_projection_input_dim", size, "an even number")
  return found | {
    "positions": POSITIONS[positions],
    "mels": size // w2v_bert.STACK,
    "feature_layer": min(LAYER, found["layers"]),
  }


def convert(
  arrays: dict[str, np.ndarray], model: dict[str, Any]
) -> dict[str, Any]:
  """Converts the tensors of a network.

  Args:
    arrays: tensors by name.
    model: fields of the network, as in a bundle.

  Returns:
    Its variables.

  Raises:
    UserError: a tensor is missing, left over or of another shape.
  """
  arrays = {k: v for k, v in arrays.items() if k not in IGNORED}
  network = semantic_networks.from_config(model)
  like = semantic_networks.bundle_shapes({"model": model})
  return weights.fill(rules(network), arrays, like)


def rules(model: w2v_bert.W2vBert2) -> list[Rule]:
  """Returns the rules for the tensors of a network."""
  name = "feature_projection.{}.{}".format
  return [
    Rule(("params/norm/scale",), (name("layer_norm", "weight"),)),
    Rule(("params/norm/bias",), (name("layer_norm", "bias"),)),
    Rule(
      ("params/project/kernel",),
      (name("projection", "weight"),),
      lambda a: [a.T],
    ),
    Rule(("params/project/bias",), (name("projection", "bias"),)),
    *conformer.rules(
      model.conformer(parent=None), source="encoder.layers", target="encoder/"
    ),
  ]
