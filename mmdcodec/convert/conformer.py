"""Rules for the conformer blocks of transformers: w2v-BERT 2.0, MusicFM."""

import numpy as np

from mmdcodec.convert import layouts
from mmdcodec.convert.layouts import Make
from mmdcodec.convert.weights import Rule, stacked
from mmdcodec.nn.conformer import Conformer


def rules(model: Conformer, *, source: str, target: str) -> list[Rule]:
  """Returns the rules for the tensors of all blocks.

  Args:
    model: the conformer.
    source: prefix of the tensors, such as "encoder.layers".
    target: path of the conformer in the whole network, such as "encoder/"; or
      "" if it is the network.
  """
  heads = layouts.Heads(model.heads, model.width // model.heads)
  table: dict[str, tuple[str, Make]] = {}

  def norm(ours: str, theirs: str) -> None:
    table[f"params/blocks/{ours}/scale"] = f"{theirs}.weight", layouts.same
    table[f"params/blocks/{ours}/bias"] = f"{theirs}.bias", layouts.same

  def linear(
    ours: str,
    theirs: str,
    kernel: Make = np.transpose,
    bias: Make = layouts.same,
  ) -> None:
    table[f"params/blocks/{ours}/kernel"] = f"{theirs}.weight", kernel
    table[f"params/blocks/{ours}/bias"] = f"{theirs}.bias", bias

  for ours, theirs in (("feed_before", "ffn1"), ("feed_after", "ffn2")):
    norm(f"{ours}/norm", f"{theirs}_layer_norm")
    linear(f"{ours}/inner", f"{theirs}.intermediate_dense")
    linear(f"{ours}/outer", f"{theirs}.output_dense")
  norm("attention/norm", "self_attn_layer_norm")
  for name in ("query", "key", "value"):
    theirs = f"self_attn.linear_{name[0]}"
    linear(f"attention/{name}", theirs, heads.into, heads.bias)
  linear("attention/out", "self_attn.linear_out", heads.back)
  if model.positions == "relative_key":
    name = "self_attn.distance_embedding.weight"
    table["params/blocks/attention/distances"] = name, layouts.same
  norm("convolution/norm", "conv_module.layer_norm")
  for ours, theirs, make in (
    ("expand/kernel", "pointwise_conv1", lambda a: a[:, :, 0].T),
    ("depthwise/kernel", "depthwise_conv", lambda a: a[:, 0].T),
    ("project/kernel", "pointwise_conv2", lambda a: a[:, :, 0].T),
  ):
    path = f"params/blocks/convolution/{ours}"
    table[path] = f"conv_module.{theirs}.weight", make
  if model.conv_norm == "layer":
    norm("convolution/middle_norm", "conv_module.depthwise_layer_norm")
  else:
    norm("convolution/middle_norm", "conv_module.batch_norm")
    for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
      path = f"batch_stats/blocks/convolution/middle_norm/{ours}"
      table[path] = f"conv_module.batch_norm.{theirs}", layouts.same
  norm("norm", "final_layer_norm")
  out = []
  for path, (name, make) in table.items():
    names = tuple(f"{source}.{i}.{name}" for i in range(model.layers))
    path = path.replace("/", f"/{target}", 1)
    out.append(Rule((path,), names, stacked(names, make)))
  return out
