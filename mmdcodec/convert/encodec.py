"""Converts public weights of EnCodec (arXiv 2210.13438), 24, 32 and 48 kHz.

Two sources are supported:

  transformers   config.json and tensors like `encoder.layers.3.conv...`
  the releases   of the authors, encodec and audiocraft: tensors like
                 `encoder.model.3.conv.conv...`, no config.json

Both may have weight norm under its old (`weight_g`, `weight_v`) or new name.
`canonical` maps all names to those of transformers with the new weight norm;
then one list of rules maps each tensor to a parameter. Layers are numbered as
in PyTorch, where an ELU is a layer too.

Our state of a codebook is `sum` and `count` (`mmdcodec.quantize.vector`).
Public weights have the code vectors themselves, `embed`, and the running
`cluster_size` and `embed_avg` they came from. Here every code gets the same
count, a power of two near the mean of `cluster_size`, and `sum = embed *
count`. Then sum over smoothed count equals `embed` bit for bit on any machine;
the original counts would add rounding errors. Training continues with the
inertia of the original codebook, and detects dead codes when the counts have
adapted, within a few hundred steps.
"""

import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmdcodec.convert import weights
from mmdcodec.convert.encodec_config import fields_of
from mmdcodec.convert.weights import Rule
from mmdcodec.errors import UserError
from mmdcodec.models import codec as codec_model
from mmdcodec.models import weights as model_weights

# The published models, distinguished by their shapes.
PRESETS = ("encodec_24khz", "encodec_32khz", "encodec_48khz")

# Fields that do not follow from the tensors; they come from the preset.
UNSEEN = (
  "rate",
  "causal",
  "pad_mode",
  "trim_right_ratio",
  "normalize",
  "chunk_seconds",
  "overlap",
  "quantizer_dropout",
)

CODEBOOK = "quantizer.layers.{}.codebook.{}"


def bundled(
  arrays: dict[str, np.ndarray],
  config: dict[str, Any] | None,
  preset: str | None,
  folder: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
  """Makes the contents of a bundle with these weights.

  Args:
    arrays: tensors by name, as in the file.
    config: config.json of transformers; None for a release without one.
    preset: as in `guess`.
    folder: folder of the weights; not used.

  Returns:
    (config, variables, other files by name).

  Raises:
    UserError: a field or tensor is unknown, missing, or left over.
  """
  del folder
  fields, variables = convert(arrays, config, preset)
  return {"kind": "codec", "model": fields}, variables, {}


def convert(
  arrays: dict[str, np.ndarray],
  config: dict[str, Any] | None = None,
  preset: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Converts a public EnCodec.

  Args:
    arrays: tensors by name, as in the file.
    config: config.json of transformers; None for a release without one.
    preset: as in `guess`.

  Returns:
    (fields of the Codec, variables).

  Raises:
    UserError: a field or tensor is unknown, missing, or left over.
  """
  arrays = weights.renamed(arrays, canonical)
  fields = guess(arrays, preset) if config is None else fields_of(config)
  model = codec_model.from_config(fields)
  like = model_weights.shapes({"kind": "codec", "model": fields})
  return fields, weights.fill(rules(model), arrays, like)


def canonical(name: str) -> str:
  """Returns a tensor's name in current versions of transformers."""
  for pattern, new in (
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.conv\.conv\.|\.convtr\.convtr\.", ".conv."),
    (r"\.(conv|convtr)\.norm\.", ".norm."),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", CODEBOOK.format(r"\1", "")),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
  ):
    name = re.sub(pattern, new, name)
  return name


def guess(
  arrays: dict[str, np.ndarray], preset: str | None = None
) -> dict[str, Any]:
  """Infers the fields of the Codec from the shapes of its tensors.

  Shapes determine the widths, kernels, strides, norm, LSTM and codebooks; rate,
  causality, padding and chunks come from a preset.

  Args:
    arrays: tensors by their canonical names.
    preset: name of the preset; None means the published model with the same
      shapes.

  Returns:
    Fields of the Codec.

  Raises:
    UserError: the tensors are not from an EnCodec, or they match no published
      one and there is no preset.
  """
  seen = _seen(arrays)
  if preset is None:
    like = lambda name: codec_model.preset(name).items() >= seen.items()
    found = [name for name in PRESETS if like(name)]
    if len(found) != 1:
      raise UserError(
        "there is no config.json, and no published EnCodec has these shapes:"
        " give --preset with the name of the codec preset that has the rate,"
        f" causality and padding of these weights, such as {PRESETS[0]}."
      )
    preset = found[0]
  fields = codec_model.preset(preset)
  unseen = {key: fields[key] for key in UNSEEN}
  return codec_model.preset("encodec_24khz", **seen, **unseen)


def _seen(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """Returns the fields that follow from shapes."""

  def shape(key: str) -> Any:
    for end in ("parametrizations.weight.original1", "weight"):
      if f"{key}.conv.{end}" in arrays:
        return arrays[f"{key}.conv.{end}"].shape
    return None

  def layers(half: str) -> list[str]:
    found = {
      int(match[1])
      for name in arrays
      if (match := re.match(rf"{half}\.layers\.(\d+)\.", name))
    }
    return [f"{half}.layers.{i}" for i in sorted(found)]

  try:
    encoder = layers("encoder")
    first, last = shape(encoder[0]), shape(encoder[-1])
    residual = [k for k in encoder if shape(f"{k}.block.1")]
    down = [k for k in encoder[1:-1] if shape(k)]
    ratios = [shape(k)[2] // 2 for k in reversed(down)]
    inner = shape(f"{residual[0]}.block.1")
    lstm = [n for n in arrays if n.startswith("encoder") and "weight_hh_l" in n]
    size, _ = arrays[CODEBOOK.format(0, "embed")].shape
    norm = "none"
    if any("parametrizations" in name for name in arrays):
      norm = "weight"
    elif any(".norm." in name for name in arrays):
      norm = "time_group"
    return dict(
      channels=first[1],
      filters=first[0],
      kernel=first[2],
      dim=last[0],
      last_kernel=last[2],
      ratios=tuple(ratios),
      residual_kernel=inner[2],
      compress=first[0] // inner[0],
      # Dilations double in both releases; no published model has more than one.
      dilations=tuple(2**i for i in range(len(residual) // len(down))),
      shortcut="conv" if shape(f"{residual[0]}.shortcut") else "identity",
      lstm_layers=len(lstm),
      norm=norm,
      codebooks=sum(name.endswith("codebook.embed") for name in arrays),
      codebook_size=size,
    )
  except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
    raise UserError("these are not the weights of an EnCodec.") from None


def rules(model: codec_model.Codec) -> list[Rule]:
  """Returns the rules for the tensors of an EnCodec."""
  blocks, layers = len(model.ratios), len(model.dilations)
  lstm = 1 if model.lstm_layers else 0
  block = layers + 2  # residual layers, an ELU, a convolution
  out = []
  for half in ("encoder", "decoder"):
    encodes = half == "encoder"
    to, key = f"params/{half}", f"{half}.layers."
    last = 1 + blocks * block + lstm + 1  # after the first, and an ELU
    out += _conv(model.norm, f"{to}/conv_in", f"{key}0")
    out += _conv(model.norm, f"{to}/conv_out", f"{key}{last}")
    if lstm:
      place = 1 + blocks * block if encodes else 1
      out += _lstm(model.lstm_layers, f"{to}/lstm", f"{key}{place}")
    for i in range(blocks):
      # Encoder: residual layers, ELU, down. Decoder: ELU, up, residual layers.
      start = 1 + i * block + (0 if encodes else lstm)
      first = start + (0 if encodes else 2)
      for j in range(layers):
        path = f"{to}/block_{i}/residual_{j}"
        out += _residual(model, path, f"{key}{first + j}")
      name, place = ("down", layers + 1) if encodes else ("up", 1)
      path = f"{to}/block_{i}/{name}"
      out += _conv(model.norm, path, f"{key}{start + place}", up=not encodes)
  return [*out, _codebooks(model.codebooks)]


def _conv(norm: str, to: str, key: str, *, up: bool = False) -> list[Rule]:
  """Returns the rules for a convolution (`up`: transposed) and its norm."""
  # [out, in, taps], transposed [in, out, taps] -> [taps, in, out]. Weight norm
  # has one g per entry of the source's first axis in both cases.
  order = (2, 0, 1) if up else (2, 1, 0)
  kernel = lambda a: (a.transpose(order),)
  out = [Rule((f"{to}/bias",), (f"{key}.conv.bias",))]
  if norm == "weight":
    weight = f"{key}.conv.parametrizations.weight.original"
    flat = lambda g: (g.reshape(-1),)
    out.append(Rule((f"{to}/g",), (f"{weight}0",), flat))
    out.append(Rule((f"{to}/v",), (f"{weight}1",), kernel))
  else:
    out.append(Rule((f"{to}/kernel",), (f"{key}.conv.weight",), kernel))
  if norm == "time_group":
    out.append(Rule((f"{to}/norm/scale",), (f"{key}.norm.weight",)))
    out.append(Rule((f"{to}/norm/bias",), (f"{key}.norm.bias",)))
  return out


def _residual(model: codec_model.Codec, to: str, key: str) -> list[Rule]:
  """Returns the rules for a residual layer (0 and 2 in its block are ELUs)."""
  out = _conv(model.norm, f"{to}/conv_0", f"{key}.block.1")
  out += _conv(model.norm, f"{to}/conv_1", f"{key}.block.3")
  if model.shortcut == "conv":
    out += _conv(model.norm, f"{to}/shortcut", f"{key}.shortcut")
  return out


def _lstm(layers: int, to: str, key: str) -> list[Rule]:
  """Returns the rules for LSTM layers; the two biases of a layer are added."""
  out = []
  for i in range(layers):
    for path, name in (
      ("input_kernel", "weight_ih"),
      ("recurrent_kernel", "weight_hh"),
    ):
      target, source = f"{to}/layer_{i}/{path}", f"{key}.lstm.{name}_l{i}"
      out.append(Rule((target,), (source,), lambda a: (a.T,)))
    names = tuple(f"{key}.lstm.bias_{kind}_l{i}" for kind in ("ih", "hh"))
    out.append(Rule((f"{to}/layer_{i}/bias",), names, _sum(names)))
  return out


def _sum(names: Sequence[str]) -> Callable[..., tuple[np.ndarray]]:
  """Returns a function that adds two tensors without broadcasting."""

  def make(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray]:
    if a.shape != b.shape:
      raise weights.Misfit(names)
    return (a + b,)

  return make


def _codebooks(count: int) -> Rule:
  """Returns the rule for the state of all codebooks."""
  names = lambda what: tuple(CODEBOOK.format(i, what) for i in range(count))

  def make(*arrays: Any) -> tuple[np.ndarray, ...]:
    embed, averages, sizes, inited = (
      arrays[i * count : (i + 1) * count] for i in range(4)
    )
    # Averages are embed times smoothed count, so they are redundant. Only their
    # shapes are checked.
    for i, e in enumerate(embed):
      for what, array, shape in (
        ("embed_avg", averages[i], e.shape),
        ("cluster_size", sizes[i], e.shape[:1]),
        ("inited", inited[i], (1,)),
      ):
        if array is not None and array.shape != shape:
          raise weights.Misfit([CODEBOOK.format(i, what)])
    mean = [0.0 if size is None else float(size.mean()) for size in sizes]
    started = all(i is None or i.all() for i in inited)
    return *codebook_state(np.stack(embed), mean), np.array(started)

  return Rule(
    tuple(f"codebook/quantizer/{k}" for k in ("sum", "count", "started")),
    names("embed"),
    make,
    optional=(*names("embed_avg"), *names("cluster_size"), *names("inited")),
  )


def codebook_state(
  embed: np.ndarray, mean: list[float]
) -> tuple[np.ndarray, np.ndarray]:
  """Makes the sum and count that give the code vectors bit for bit.

  Args:
    embed: [codebooks, size, dim] float32. The result is exact if the size is a
      power of two, and within rounding otherwise.
    mean: mean count of each codebook; 0 if unknown.

  Returns:
    (sum [codebooks, size, dim], count [codebooks, size]) float32.
  """
  power = [2.0 ** round(math.log2(m)) if m > 0 else 1.0 for m in mean]
  count = np.array(power, np.float32)[:, None]
  count = np.repeat(count, embed.shape[1], 1)
  return embed * count[..., None], count
