"""EnCodec (arXiv 2210.13438) at 24, 32 and 48 kHz: public weights to ours.

Two sources are known:

  transformers   config.json and tensors like `encoder.layers.3.conv...`
  the releases   of the authors, encodec and audiocraft: tensors like
                 `encoder.model.3.conv.conv...`, no config.json

each with weight norm under its old (`weight_g`, `weight_v`) or new name. All
names are brought to those of transformers with the new one (`canonical`), then
one list of rules says what each tensor becomes. Layers are numbered as in
PyTorch, where an ELU is a layer too.

The state of a codebook is `sum` and `count` here (`mmdcodec.quantize.vector`),
in the public weights the code vectors themselves, `embed`, beside the running
`cluster_size` and `embed_avg` that they were made of. Every code gets the same
count, a power of two near the mean of `cluster_size`, and `sum = embed *
count`: then sum over smoothed count is `embed` to the last bit on any machine.
From the counts as they are it would be off by rounding. Training goes on from
there with the inertia that the codebook had; which codes are dead it finds out
within a few hundred steps, as the counts follow their use.
"""

import math
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.convert import weights
from mmdcodec.convert.encodec_config import fields_of
from mmdcodec.convert.weights import Rule
from mmdcodec.errors import UserError
from mmdcodec.models import codec as codec_model

# The published models, whose numbers tell them apart.
PRESETS = ("encodec_24khz", "encodec_32khz", "encodec_48khz")

# What a tensor's shape or name can't tell: from the preset.
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
  """What a bundle of these weights holds: see `convert`.

  Args:
    arrays: see there; `config` and `preset` too.
    config: see there.
    preset: see there.
    folder: where they lie.

  Returns:
    (config, variables, further files by name).
  """
  del folder  # There is nothing else in it.
  fields, variables = convert(arrays, config, preset)
  return {"kind": "codec", "model": fields}, variables, {}


def convert(
  arrays: dict[str, np.ndarray],
  config: dict[str, Any] | None = None,
  preset: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """An EnCodec of ours with public weights.

  Args:
    arrays: tensors by name, as the file has them.
    config: config.json of transformers; None for a release without.
    preset: see `guess`.

  Returns:
    (fields of the Codec, variables).

  Raises:
    UserError: a field or a tensor that is not understood, missing, or over.
  """
  renamed: dict[str, str] = {}
  for name in arrays:
    other = renamed.setdefault(canonical(name), name)
    if other != name:
      raise UserError(f"{other} and {name} are two tensors for one purpose.")
  arrays = {new: arrays[old] for new, old in renamed.items()}
  fields = guess(arrays, preset) if config is None else fields_of(config)
  model = codec_model.from_config(fields)
  x = jnp.zeros((1, model.stride, model.channels))
  like = jax.eval_shape(model.init, jax.random.key(0), x)
  return fields, weights.fill(rules(model), arrays, like)


def canonical(name: str) -> str:
  """A tensor's name in transformers of today."""
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
  """Fields of the Codec from the shapes of its tensors.

  Shapes tell the widths, kernels, strides, norm, LSTM and codebooks. Rate,
  causality, padding and chunks they can't: those are taken from a preset.

  Args:
    arrays: tensors by their canonical names.
    preset: name of one; None: the published model with these very shapes.

  Raises:
    UserError: the tensors are those of no EnCodec, or of none that was
      published and no preset is given.
  """
  seen = _seen(arrays)
  if preset is None:
    like = lambda name: codec_model.preset(name).items() >= seen.items()
    found = [name for name in PRESETS if like(name)]
    if len(found) != 1:
      raise UserError(
        "there is no config.json, and these shapes are of no published EnCodec:"
        " give --preset with the name of the codec preset that has the rate,"
        f" causality and padding of these weights, such as {PRESETS[0]}."
      )
    preset = found[0]
  fields = codec_model.preset(preset)
  unseen = {key: fields[key] for key in UNSEEN}
  return codec_model.preset("encodec_24khz", **seen, **unseen)


def _seen(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """The fields that shapes tell."""

  def shape(key):
    for end in ("parametrizations.weight.original1", "weight"):
      if f"{key}.conv.{end}" in arrays:
        return arrays[f"{key}.conv.{end}"].shape
    return None

  def layers(half):
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
      # Both releases grow by 2; none of their models has more than one.
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
  """What each tensor of an EnCodec becomes."""
  blocks, layers = len(model.ratios), len(model.dilations)
  lstm = 1 if model.lstm_layers else 0
  block = layers + 2  # its residual layers, an ELU, a convolution
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
  """A convolution, with its norm; `up` if it is a transposed one."""
  # [out, in, taps], transposed [in, out, taps] -> [taps, in, out]. Weight norm
  # has one g per first axis of the source in either case.
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
  """A residual layer; 0 and 2 of its block are ELUs."""
  out = _conv(model.norm, f"{to}/conv_0", f"{key}.block.1")
  out += _conv(model.norm, f"{to}/conv_1", f"{key}.block.3")
  if model.shortcut == "conv":
    out += _conv(model.norm, f"{to}/shortcut", f"{key}.shortcut")
  return out


def _lstm(layers: int, to: str, key: str) -> list[Rule]:
  """A stack of LSTM layers; two biases of a layer are only ever added."""
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


def _sum(names: tuple[str, str]):
  """Adds two tensors, and never broadcasts one."""

  def make(a, b):
    if a.shape != b.shape:
      raise weights.Misfit(names)
    return (a + b,)

  return make


def _codebooks(count: int) -> Rule:
  """The state of all codebooks."""
  names = lambda what: tuple(CODEBOOK.format(i, what) for i in range(count))

  def make(*arrays):
    embed, averages, sizes, inited = (
      arrays[i * count : (i + 1) * count] for i in range(4)
    )
    # Averages are embed times smoothed count, so nothing new; but not of
    # another codebook.
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
  """Sum and count of which `embedding` gives the code vectors bit for bit.

  Args:
    embed: [codebooks, size, dim] float32; exact for a size that is a power of
      two, within a rounding otherwise.
    mean: of the counts of each codebook; 0 where it is not known.

  Returns:
    (sum [codebooks, size, dim], count [codebooks, size]) float32.
  """
  power = [2.0 ** round(math.log2(m)) if m > 0 else 1.0 for m in mean]
  count = np.array(power, np.float32)[:, None]
  count = np.repeat(count, embed.shape[1], 1)
  return embed * count[..., None], count
