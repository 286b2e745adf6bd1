"""Exports a codec as two programs that run without this package.

`export_codec` writes a folder that only needs JAX and NumPy to run:

  encode.stablehlo   (weights, x, lengths) -> {"codes", "frames", "scale"}
  decode.stablehlo   (weights, codes, lengths, scale) -> audio
  weights.npz        the weights, arguments of both, by path as in a bundle
  signature.json     rates, shapes, sizes
  README.txt         the same in prose, with an example

The programs are `jax.export` artefacts: StableHLO lowered for CPU, CUDA and TPU
at once, for any batch and length. Weights are arguments, so the programs are
small, compile fast, and accept weights from any training step.

Lengths are whole units (frames, or chunks in a codec with chunks), so that the
shapes of all layers follow from them. The user pads the audio to the next unit,
with any values; the true `lengths` mark its end to the sample. In very short
clips, the two edges would overlap in ways that depend on the shape, so shorter
audio is padded to `least` units.
"""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

import mmdcodec
from mmdcodec import folders
from mmdcodec.models.codec import Codec
from mmdcodec.nn import folding
from mmdcodec.store import atomic
from mmdcodec.tokenizers import loaded_codec

PLATFORMS = ("cpu", "cuda", "tpu")
FILES = (
  "encode.stablehlo",
  "decode.stablehlo",
  "weights.npz",
  "signature.json",
  "README.txt",
)


class Unit(NamedTuple):
  """The unit in which clip lengths are counted.

  Attributes:
    samples: samples in a unit.
    frames: code frames in a unit.
    least: smallest number of units that a program accepts.
  """

  samples: int
  frames: int
  least: int


def unit_of(model: Codec) -> Unit:
  """Returns the unit for a codec's programs."""
  if model.chunk is not None:
    size, hop = model.chunk
    # At least 2: a single chunk would be coded like a clip without chunks.
    return Unit(hop, -(-size // model.stride), 2)
  # Enough frames that no layer's padding is longer than its input.
  reach = (model.residual_kernel - 1) * max(model.dilations) + 1
  within = -(-reach // model.ratios[0])
  return Unit(model.stride, 1, max(model.kernel, model.last_kernel, within, 2))


def programs(model: Codec, variables: dict) -> dict[str, Any]:
  """Exports encoder and decoder as `jax.export.Exported`, by name.

  The result does not depend on the exporting machine: one network serves all
  platforms. Its narrow layers are not folded (`mmdcodec.nn.folding`), because
  folding costs time on CPUs and does not change the result on a TPU.

  Args:
    model: the codec.
    variables: its arrays, or their shapes.

  Returns:
    {"encode": ..., "decode": ...}.
  """
  from jax import export

  unit = unit_of(model)
  nested = lambda flat: flax.traverse_util.unflatten_dict(flat, sep="/")
  Weights = dict[str, jax.Array]

  def encode(
    weights: Weights, x: jax.Array, lengths: jax.Array
  ) -> dict[str, jax.Array]:
    out: Any = model.apply(nested(weights), x, lengths, method="encode")
    units = x.shape[1] // unit.samples
    # The last chunk has fewer frames, but decode takes whole chunks.
    short = units * unit.frames - out.codes.shape[1]
    codes = jnp.pad(out.codes, ((0, 0), (0, short), (0, 0)))
    scale = {} if out.scale is None else {"scale": out.scale}
    return {"codes": codes, "frames": out.lengths, **scale}

  def decode(
    weights: Weights, codes: jax.Array, lengths: jax.Array, *scale: jax.Array
  ) -> Any:
    return model.apply(
      nested(weights),
      codes,
      lengths=lengths,
      scale=scale[0] if scale else None,
      method="decode",
    )

  array = jax.ShapeDtypeStruct
  flat = flax.traverse_util.flatten_dict(variables, sep="/")
  weights = {name: array(a.shape, a.dtype) for name, a in flat.items()}

  def make(f: Callable) -> Callable:
    def export_unfolded(*arguments: Any) -> Any:
      with folding.forced(False):
        return export.export(jax.jit(f), platforms=PLATFORMS)(*arguments)

    return export_unfolded

  free = ["b >= 1", f"n >= {unit.least}"]

  b, n = export.symbolic_shape("b, n", constraints=free)
  x = array((b, n * unit.samples, model.channels), jnp.float32)
  encoder = make(encode)(weights, x, array((b,), jnp.int32))

  # Each symbol of a scope must occur among the arguments: k needs a new scope.
  free += ["k >= 1", f"k <= {model.codebooks}"]
  b, n, k = export.symbolic_shape("b, n, k", constraints=free)
  codes = array((b, n * unit.frames, k), jnp.int32)
  scale = ()
  if model.normalize:
    scale = (array((b, n if model.chunk else 1), jnp.float32),)
  decoder = make(decode)(weights, codes, array((b,), jnp.int32), *scale)
  return {"encode": encoder, "decode": decoder}


def export_codec(
  codec: loaded_codec.LoadedCodec,
  folder: str | pathlib.Path,
  *,
  force: bool = False,
) -> dict[str, int]:
  """Writes a codec's programs and everything needed to call them.

  Args:
    codec: from `mmdcodec.load`.
    folder: output folder; it must be empty or absent, unless force.
    force: whether to replace the programs in the folder.

  Returns:
    Size of each file in bytes, by name.

  Raises:
    UserError: the folder holds something else.
  """
  with folders.replacing(folder, FILES, force=force, what="export") as fresh:
    for name, program in programs(codec.model, codec.variables).items():
      (fresh / f"{name}.stablehlo").write_bytes(program.serialize())
    weights: dict[str, Any] = loaded_codec.flatten(
      jax.device_get(codec.variables)
    )
    np.savez(fresh / "weights.npz", **weights)
    about = signature(codec)
    atomic.write_json(fresh / "signature.json", about)
    atomic.write_text(fresh / "README.txt", _readme(about))
    return {name: (fresh / name).stat().st_size for name in FILES}


def signature(codec: loaded_codec.LoadedCodec) -> dict[str, Any]:
  """Describes arguments and results of the programs, for JSON."""
  model, unit = codec.model, unit_of(codec.model)
  audio = f"float32 [b, {unit.samples} * n, {model.channels}]"
  frames = "n" if unit.frames == 1 else f"{unit.frames} * n"
  scales = "n" if model.chunk else "1"
  scale = {"scale": f"float32 [b, {scales}]"} if model.normalize else {}
  length = {"lengths": "int32 [b], samples from 1 on"}
  return {
    "model": codec.hash,
    "rate": codec.rate,
    "channels": codec.channels,
    "frame_rate": codec.frame_rate,
    "codebooks": codec.codebooks,
    "codebook_size": model.codebook_size,
    "unit_samples": unit.samples,
    "unit_frames": unit.frames,
    "least_units": unit.least,
    "encode": {
      "arguments": {"weights": "weights.npz", "x": audio, **length},
      "result": {
        "codes": f"int32 [b, {frames}, {codec.codebooks}]",
        "frames": "int32 [b], valid frames",
        **scale,
      },
    },
    "decode": {
      "arguments": {
        "weights": "weights.npz",
        "codes": f"int32 [b, {frames}, k], k = 1..{codec.codebooks}",
        **length,
        **scale,
      },
      "result": f"float32 [b, {_decoded(model, unit)}, {model.channels}]",
    },
    "platforms": list(PLATFORMS),
    "jax": jax.__version__,
    "mmdcodec": mmdcodec.__version__,
  }


def _decoded(model: Codec, unit: Unit) -> str:
  """Formats the number of samples that n units decode to."""
  over = unit.frames * model.stride - unit.samples
  return f"{unit.samples} * n" + (f" + {over}" if over else "")


def _readme(about: dict[str, Any]) -> str:
  """Writes the README for the programs with this signature."""
  rows = []
  for name in ("encode", "decode"):
    part = about[name]
    result = part["result"]
    if isinstance(result, dict):
      result = "{" + ", ".join(f'"{k}": {v}' for k, v in result.items()) + "}"
    takes = "".join(f"\n    {k}: {v}" for k, v in part["arguments"].items())
    rows.append(f"{name}{takes}\n    -> {result}")
  scaled = "scale" in about["encode"]["result"]
  return f"""\
Neural audio codec {about["model"]}: {about["rate"]} Hz, {about["channels"]} \
channel(s), {about["codebooks"]} x {about["codebook_size"]} codes.

{chr(10).join(rows)}

Batch b and length n >= {about["least_units"]} are free. Pad audio at its end to
a multiple of {about["unit_samples"]} samples, and give its true length in
lengths: samples after that change nothing. The first k codebooks can be decoded
alone. StableHLO for {", ".join(about["platforms"])}, written by JAX \
{about["jax"]}; to load it, JAX needs the package flatbuffers.

  import jax, numpy as np
  from jax import export
  load = lambda name: jax.jit(export.deserialize(open(name, "rb").read()).call)
  encode, decode = load("encode.stablehlo"), load("decode.stablehlo")
  weights = dict(np.load("weights.npz"))
  x = ...  # float32 [samples, {about["channels"]}] at {about["rate"]} Hz
  lengths = np.array([len(x)], np.int32)
  units = max(-(-len(x) // {about["unit_samples"]}), {about["least_units"]})
  padded = np.zeros((1, units * {about["unit_samples"]}, \
{about["channels"]}), np.float32)
  padded[0, : len(x)] = x
  out = encode(weights, padded, lengths)
  y = decode(weights, out["codes"], lengths{', out["scale"]' if scaled else ""})
  y = np.asarray(y)[0, : len(x)]

Each new shape is compiled: pad to a few lengths if there are many files.
"""
