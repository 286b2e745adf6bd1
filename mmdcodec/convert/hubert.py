"""Converts HuBERT, and MERT of the same form, from transformers."""

import pathlib
from typing import Any

import numpy as np

from mmdcodec.bounds import declared, flag, one_of
from mmdcodec.convert import fields, layouts, weights
from mmdcodec.convert.weights import Rule, stacked
from mmdcodec.models import hubert, semantic_networks
from mmdcodec.store import inputs

# Field of transformers' config -> (our field, default).
FIELDS: dict[str, tuple[str, Any]] = {
  "hidden_size": ("width", 768),
  "num_hidden_layers": ("layers", 12),
  "num_attention_heads": ("heads", 12),
  "intermediate_size": ("hidden", 3072),
  "conv_dim": ("sizes", (512,) * 7),
  "conv_kernel": ("kernels", (10, 3, 3, 3, 3, 2, 2)),
  "conv_stride": ("strides", (5, 2, 2, 2, 2, 2, 2)),
  "conv_bias": ("conv_bias", False),
  "feat_extract_norm": ("conv_norm", "group"),
  "feat_proj_layer_norm": ("project_norm", True),
  "num_conv_pos_embeddings": ("position_kernel", 128),
  "num_conv_pos_embedding_groups": ("position_groups", 16),
  "do_stable_layer_norm": ("norm_first", False),
}
# Fields of which only one value is supported. MERT's are among them; its
# `attention_relax` computes the same softmax in another way.
FIXED: dict[str, Any] = {
  "hidden_act": "gelu",
  "feat_extract_activation": "gelu",
  "layer_norm_eps": 1e-5,
  "conv_pos_batch_norm": False,
  "adapter_attn_dim": None,
  "deepnorm": False,
  "feature_extractor_cqt": False,
}
# Used in training only.
IGNORED = ("masked_spec_embed",)
FRONT_END = "preprocessor_config.json"
# As open re-implementations of MusicLM have it, with MERT.
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
    rate = declared(hubert.Hubert)["rate"]
    found |= {
      "rate": fields.get(front, "sampling_rate", found["rate"], rate),
      "normalise": fields.get(
        front, "do_normalize", found["normalise"], flag()
      ),
    }
  model = {"network": "hubert", **found}
  return {"kind": "semantic", "model": model}, convert(arrays, model), {}


def fields_of(config: dict[str, Any]) -> dict[str, Any]:
  """Converts a config.json to fields of our HuBERT.

  Fields that do not affect its features (dropout, masks and others) are
  ignored.

  Raises:
    UserError: the value of a field is not supported.
  """
  checks = declared(hubert.Hubert)
  found = fields.renamed(config, FIELDS, checks)
  for name, value in FIXED.items():
    fields.get(config, name, value, one_of([value]))
  # Only MERT has this field. It was trained on waves as they are.
  mert = "sample_rate" in config
  return found | {
    "rate": fields.get(config, "sample_rate", 16_000, checks["rate"]),
    "normalise": not mert,
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
  arrays = weights.renamed(arrays, canonical)
  network = semantic_networks.from_config(model)
  like = semantic_networks.bundle_shapes({"model": model})
  return weights.fill(rules(network), arrays, like)


def canonical(name: str) -> str:
  """Returns a tensor's name in current versions of transformers."""
  for old, new in (("g", "original0"), ("v", "original1")):
    name = name.replace(f".weight_{old}", f".parametrizations.weight.{new}")
  return name


def rules(model: hubert.Hubert) -> list[Rule]:
  """Returns the rules for the tensors of a network."""
  out = []

  def norm(ours: str, theirs: str) -> None:
    out.append(Rule((f"params/{ours}/scale",), (f"{theirs}.weight",)))
    out.append(Rule((f"params/{ours}/bias",), (f"{theirs}.bias",)))

  for i in range(len(model.sizes)):
    name = f"feature_extractor.conv_layers.{i}"
    out.append(
      Rule(
        (f"params/front/kernel_{i}",),
        (f"{name}.conv.weight",),
        lambda a: [a.transpose(2, 1, 0)],
      )
    )
    if model.conv_bias:
      out.append(Rule((f"params/front/bias_{i}",), (f"{name}.conv.bias",)))
    if model.conv_norm == "layer":
      norm(f"front/norm_{i}", f"{name}.layer_norm")
    elif i == 0:
      for ours, theirs in (("scale", "weight"), ("offset", "bias")):
        names = (f"{name}.layer_norm.{theirs}",)
        out.append(Rule((f"params/front/{ours}",), names))
  if model.project_norm:
    norm("front_norm", "feature_projection.layer_norm")
  name = "feature_projection.projection"
  kernel = Rule(
    ("params/project/kernel",), (f"{name}.weight",), lambda a: [a.T]
  )
  out += [kernel, Rule(("params/project/bias",), (f"{name}.bias",))]
  name = "encoder.pos_conv_embed.conv"
  weight = f"{name}.parametrizations.weight.original"
  out += [
    Rule(
      ("params/position/kernel",), (f"{weight}0", f"{weight}1"), _weight_norm
    ),
    Rule(("params/position/bias",), (f"{name}.bias",)),
  ]
  norm("norm", "encoder.layer_norm")
  return out + _blocks(model)


def _weight_norm(g: np.ndarray, v: np.ndarray) -> list[np.ndarray]:
  """Kernel [taps, in, out] of g [1, 1, taps] and v [out, in, taps]."""
  wide = v.astype(np.float64)
  # Unlike a codec's weight norm, one norm per tap.
  length = np.sqrt(np.sum(wide**2, (0, 1), keepdims=True))
  return [(g * wide / length).astype(np.float32).transpose(2, 1, 0)]


def _blocks(model: hubert.Hubert) -> list[Rule]:
  heads = layouts.Heads(model.heads, model.width // model.heads)
  table: dict[str, tuple[str, Any]] = {}
  for name in ("query", "key", "value"):
    theirs = f"attention.{name[0]}_proj"
    table[f"{name}/kernel"] = f"{theirs}.weight", heads.into
    table[f"{name}/bias"] = f"{theirs}.bias", heads.bias
  table["out/kernel"] = "attention.out_proj.weight", heads.back
  table["out/bias"] = "attention.out_proj.bias", layouts.same
  for ours, theirs in (("inner", "intermediate"), ("outer", "output")):
    name = f"feed_forward.{theirs}_dense"
    table[f"{ours}/kernel"] = f"{name}.weight", np.transpose
    table[f"{ours}/bias"] = f"{name}.bias", layouts.same
  for ours, theirs in (
    ("attention_norm", "layer_norm"),
    ("feed_norm", "final_layer_norm"),
  ):
    table[f"{ours}/scale"] = f"{theirs}.weight", layouts.same
    table[f"{ours}/bias"] = f"{theirs}.bias", layouts.same
  out = []
  for path, (name, make) in table.items():
    names = tuple(f"encoder.layers.{i}.{name}" for i in range(model.layers))
    out.append(Rule((f"params/blocks/{path}",), names, stacked(names, make)))
  return out
