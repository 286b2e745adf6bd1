"""Small forms of the benchmarks, with shares of what the device can do.

Those of training are in `training_speed`.

Peak and bandwidth are measured in the same run: by a matrix product in full
float32, one as the device likes it best (TF32, bfloat16 passes), one of
bfloat16, and by a copy. `mmdcodec bench` has the long forms.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.bench import data, floor, lm, loss_estimators, timing
from mmdcodec.models import codec as codec_model
from mmdcodec.models import token_lm
from mmdcodec.selftest.families import filled
from mmdcodec.tokenizers.loaded_codec import LoadedCodec

# Timed runs, of which the median counts.
RUNS = 3


@dataclasses.dataclass(frozen=True)
class Row:
  """One speed.

  Attributes:
    name: what was timed.
    seconds: of one run, the median.
    rate: what it amounts to, with its unit.
    peak: share of the measured peak of its precision, if operations are known.
    bandwidth: share of the measured bandwidth, if bytes are.
  """

  name: str
  seconds: float
  rate: str
  peak: float | None = None
  bandwidth: float | None = None

  def to_dict(self) -> dict[str, Any]:
    """For JSON."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Speeds:
  """What the device can do, measured.

  Attributes:
    machine: full float32 and bandwidth.
    fastest: operations per second in float32 as the device likes them best.
    bfloat16: the same of bfloat16.
  """

  machine: floor.Machine
  fastest: float
  bfloat16: float

  @classmethod
  def measure(cls) -> "Speeds":
    """Times matrix products and a copy."""
    found = [
      floor.matmul_speed(dtype, "default", size=1024, runs=3)
      for dtype in (jnp.float32, jnp.bfloat16)
    ]
    return cls(floor.Machine.measure(), *found)

  def to_dict(self) -> dict[str, float]:
    """For JSON."""
    return {
      "float32": self.machine.flops,
      "float32_default": self.fastest,
      "bfloat16": self.bfloat16,
      "bandwidth": self.machine.bandwidth,
    }


def of_lm(speeds: Speeds) -> list[Row]:
  """Steps of drawing from MusicGen's width, as far as a small device can."""
  small = jax.default_backend() == "cpu"
  layers, steps = (2, 24) if small else (24, 100)
  fields = token_lm.preset("small", layers=layers)
  rows = []
  for dtype in ("float32",) if small else ("float32", "bfloat16"):
    model = token_lm.from_config(
      fields | {"conditions": {}, "pattern": None, "dtype": dtype}
    )
    params = lm.random_params(model)
    for batch, guidance in ((1, 1.0), (2, 3.0)):
      run = lm.sampling(model, params, steps, batch, guidance)
      each = timing.median_seconds(run, runs=RUNS) / steps
      moved = lm.bytes_of_step(model, params, steps, batch, guidance)
      pieces = "piece" if batch == 1 else "pieces, guidance"
      rows.append(
        Row(
          f"drawing, {layers} layers, {dtype}, {batch} {pieces}",
          each,
          f"{1 / each:.0f} steps/s",
          bandwidth=moved / each / speeds.machine.bandwidth,
        )
      )
  return rows


def of_codec(speeds: Speeds) -> list[Row]:
  """Encoding and decoding with EnCodec, as a user waits for it."""
  seconds = 2.0 if jax.default_backend() == "cpu" else 10.0
  config = codec_model.preset("encodec_24khz", codebooks=8)
  model: Any = codec_model.from_config(config)
  x = np.zeros((1, 2 * model.stride, 1), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)
  codec = LoadedCodec(
    {"kind": "codec", "model": config}, filled(shapes, 0.05)
  )
  x = np.zeros((1, round(seconds * codec.rate), 1), np.float32)
  codes = codec.encode(x)
  work = {
    "encoding": floor.operations(
      lambda v, x: model.apply(v, x, method="encode").codes, codec.variables, x
    ),
    "decoding": floor.operations(
      lambda v, c: model.apply(v, c, method="decode"), codec.variables, codes
    ),
  }
  ways = {
    "encoding": lambda: codec.encode(x),
    "decoding": lambda: codec.decode(codes),
  }
  # Codes are made in full float32, audio as the device likes it.
  peaks = {"encoding": speeds.machine.flops, "decoding": speeds.fastest}
  rows = []
  for name, way in ways.items():
    took = timing.median_seconds(way, runs=RUNS)
    rows.append(
      Row(
        f"{name} with EnCodec 24 kHz, {seconds:g} s",
        took,
        f"{seconds / took:.1f} x real time",
        peak=work[name] / took / peaks[name],
      )
    )
  return rows


def of_losses(speeds: Speeds) -> list[Row]:
  """The independence loss beside its formula, all in full float32."""
  sizes = (1024 if jax.default_backend() == "cpu" else 8192), 4, 128
  z, key = jax.random.normal(jax.random.key(0), sizes), jax.random.key(1)
  rows = []
  for name, loss in loss_estimators.losses(("mmd", "dhsic")).items():
    program = loss_estimators.compiled(loss, *sizes)
    took = timing.median_seconds(program, z, key, runs=RUNS)
    work = loss_estimators.gflop(name, *sizes) * 1e9
    rows.append(
      Row(
        f"independence loss, {name}, {sizes[0]} rows",
        took,
        f"{loss_estimators.temporaries(program):.0f} MiB temporary",
        peak=work / took / speeds.machine.flops,
      )
    )
  return rows


def of_data(speeds: Speeds) -> list[Row]:
  """Crops of the input pipeline, which the host makes."""
  with tempfile.TemporaryDirectory() as scratch:
    crops, _ = data.measure(
      data.make(Path(scratch)), batch=16, seconds=1.0, rate=24000, duration=1.0
    )
  return [Row("crops of 1 s from FLAC", 1 / crops, f"{crops:.0f} crops/s")]
