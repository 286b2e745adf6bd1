"""Converts MusicFM (arXiv 2311.03318) from the authors' own release.

There is no config.json: the sizes follow from the tensors. Beside the weights
lies a JSON file with the mean and the deviation of the spectra, such as
fma_stats.json. What the file has for training (targets and their prediction)
and what its library carries along (a convolution for positions, tables) is
ignored.
"""

import pathlib
import re
from typing import Any

import numpy as np

from mmdcodec.bounds import declared
from mmdcodec.convert import conformer, fields, weights
from mmdcodec.convert.weights import Rule
from mmdcodec.errors import UserError
from mmdcodec.models import musicfm, semantic_networks
from mmdcodec.store import inputs

# The release's training framework puts this before all names.
PREFIX = "model."
IGNORED = re.compile(
  r"preprocessor_|quantizer_|linear\.|cls_token$|conformer\.pos_conv_embed\."
  r"|conformer\.embed_positions\.|.*\.num_batches_tracked$"
)
ROTARY = "conformer.embed_positions.inv_freq"
STATISTICS = {"mean": "melspec_2048_mean", "deviation": "melspec_2048_std"}
# The middle of the network is the usual choice for music; 7 is MusicLM's.
LAYER = 7


def is_release(arrays: dict[str, np.ndarray]) -> bool:
  """Returns whether tensors are those of a MusicFM."""
  names = {name.removeprefix(PREFIX) for name in arrays}
  return "conv.conv.0.conv1.weight" in names and any(
    name.startswith("conformer.layers.") for name in names
  )


def bundled(
  arrays: dict[str, np.ndarray],
  config: dict[str, Any] | None,
  preset: str | None,
  folder: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
  """Makes the contents of a bundle with these weights.

  Args:
    arrays: tensors by name, as in the file.
    config: not used; there is none.
    preset: not used.
    folder: folder of the weights and of the statistics.

  Returns:
    (config, variables, other files by name).

  Raises:
    UserError: a tensor is missing or left over, or there are no statistics.
  """
  del config, preset
  arrays = weights.renamed(arrays, lambda name: name.removeprefix(PREFIX))
  model = {"network": "musicfm", **guess(arrays), **statistics(folder)}
  return {"kind": "semantic", "model": model}, convert(arrays, model), {}


def statistics(folder: pathlib.Path) -> dict[str, float]:
  """Reads mean and deviation of the spectra from a file in the folder.

  Raises:
    UserError: there is no such file, or two that differ.
  """
  found = []
  checks = declared(musicfm.MusicFM)
  for file in sorted(folder.glob("*stats*.json")):
    read = inputs.read_object(file)
    if {*STATISTICS.values()} <= {*read}:
      found.append(
        {
          ours: float(fields.get(read, name, None, checks[ours]))
          for ours, name in STATISTICS.items()
        }
      )
  if not found or any(other != found[0] for other in found):
    raise UserError(
      f"{folder} must hold one file with {' and '.join(STATISTICS.values())},"
      f" such as fma_stats.json of the release; found {len(found)}."
    )
  return found[0]


def guess(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """Infers the fields of the network from the shapes of its tensors.

  Raises:
    UserError: a tensor that tells a size is missing.
  """

  def shape(name: str, rank: int) -> tuple[int, ...]:
    found = arrays[name].shape if name in arrays else ()
    if len(found) != rank:
      raise UserError(f"the weights do not fit a MusicFM: they lack {name}.")
    return found

  block = "conformer.layers.0"
  filters = shape("conv.conv.0.conv1.weight", 4)[0]
  width, columns = shape("conv.linear.weight", 2)
  hidden = shape(f"{block}.ffn1.intermediate_dense.weight", 2)[0]
  kernel = shape(f"{block}.conv_module.depthwise_conv.weight", 3)[2]
  # Published ones have 64 channels per head.
  rotary = arrays.get(ROTARY, np.zeros(32)).size
  numbers = [re.match(r"conformer\.layers\.(\d+)\.", name) for name in arrays]
  layers = 1 + max(int(found[1]) for found in numbers if found)
  return {
    "mels": musicfm.REDUCTION * (columns // max(filters, 1)),
    "filters": filters,
    "layers": layers,
    "width": width,
    "heads": max(1, width // max(2 * rotary, 1)),
    "hidden": hidden,
    "kernel": kernel,
    "feature_layer": min(LAYER, layers),
  }


def convert(
  arrays: dict[str, np.ndarray], model: dict[str, Any]
) -> dict[str, Any]:
  """Converts the tensors of a network.

  Args:
    arrays: tensors by name, without PREFIX.
    model: fields of the network, as in a bundle.

  Returns:
    Its variables.

  Raises:
    UserError: a tensor is missing, left over or of another shape.
  """
  arrays = {k: v for k, v in arrays.items() if not IGNORED.match(k)}
  network = semantic_networks.from_config(model)
  like = semantic_networks.bundle_shapes({"model": model})
  return weights.fill(rules(network), arrays, like)


def rules(model: musicfm.MusicFM) -> list[Rule]:
  """Returns the rules for the tensors of a network."""
  out = []
  for i in range(2):
    for n, ours in enumerate(("first", "second", "shortcut"), 1):
      base = f"conv.conv.{i}"
      out.append(
        Rule(
          tuple(f"params/reduce_{i}/{ours}/{x}" for x in ("kernel", "bias")),
          (
            f"{base}.conv{n}.weight",
            f"{base}.conv{n}.bias",
            f"{base}.bn{n}.weight",
            f"{base}.bn{n}.bias",
            f"{base}.bn{n}.running_mean",
            f"{base}.bn{n}.running_var",
          ),
          _normed,
        )
      )

  def project(a: np.ndarray) -> list[np.ndarray]:
    # Their columns are channels of bands, ours bands of channels.
    bands = model.mels // musicfm.REDUCTION
    a = a.reshape(a.shape[0], model.filters, bands)
    return [a.transpose(2, 1, 0).reshape(-1, a.shape[0])]

  return [
    *out,
    Rule(("params/project/kernel",), ("conv.linear.weight",), project),
    Rule(("params/project/bias",), ("conv.linear.bias",)),
    *conformer.rules(
      model.conformer(parent=None), source="conformer.layers", target="encoder/"
    ),
    Rule(("params/encoder/norm/scale",), ("conformer.layer_norm.weight",)),
    Rule(("params/encoder/norm/bias",), ("conformer.layer_norm.bias",)),
  ]


def _normed(
  kernel: np.ndarray,
  bias: np.ndarray,
  scale: np.ndarray,
  offset: np.ndarray,
  mean: np.ndarray,
  variance: np.ndarray,
) -> list[np.ndarray]:
  """Kernel [time, band, in, out] and bias with the batch norm after them."""
  gain = scale / np.sqrt(variance.astype(np.float64) + 1e-5)
  made = kernel.transpose(3, 2, 1, 0) * gain, (bias - mean) * gain + offset
  return [a.astype(np.float32) for a in made]
