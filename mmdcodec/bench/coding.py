"""The part of `mmdcodec bench codec` that times encoding and decoding.

A loaded codec with random weights, from NumPy audio to NumPy codes and back, so
with everything that a user waits for. All ways take turns in one run, so that
whatever else the machine does slows all of them. Where the `transformers`
package is installed, its EnCodec of the same shape takes its turns too.
"""

import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mmdcodec.bench import floor
from mmdcodec.errors import UserError
from mmdcodec.models import loaded


def measure(
  config: Mapping,
  variables: Any,
  machine: floor.Machine,
  *,
  seconds: float,
  codebooks: int | None,
  runs: int,
) -> str:
  """A table of real-time factors.

  Args:
    config: fields of `Codec`.
    variables: of the codec.
    machine: speeds of the default device.
    seconds: of audio.
    codebooks: to code with; None for all.
    runs: of which the median counts.
  """
  codec = loaded.LoadedCodec(
    {"kind": "codec", "model": dict(config)}, jax.device_get(variables)
  )
  model = codec.model
  books = codec.codebooks if codebooks is None else codebooks
  samples = round(seconds * codec.rate)
  x = np.random.default_rng(0).standard_normal((1, samples, codec.channels))
  x = (0.1 * x).astype(np.float32)
  codes, scale = codec.encode(x, codebooks=books, return_scale=True)

  def encode():
    return codec.encode(x, codebooks=books)

  def decode():
    return codec.decode(codes, scale=scale)

  work = {
    "encode": floor.operations(
      lambda v, x: model.apply(v, x, codebooks=books, method="encode").codes,
      codec.variables,
      x,
    ),
    "decode": floor.operations(
      lambda v, c: model.apply(v, c, scale=scale, method="decode"),
      codec.variables,
      codes,
    ),
  }
  ways = {"encode": encode, "decode": decode}
  try:
    streamer = codec.streamer(codebooks=books)
  except UserError:
    pass  # It looks ahead.
  else:
    ways["encode, streaming"] = lambda: streamer.encode(x[0], last=True)
    ways["decode, streaming"] = lambda: streamer.decode(codes[0], last=True)
  if importlib.util.find_spec("transformers") is not None:
    ways |= _peer(model, books, x)

  lines = [
    f"{seconds:g} s of audio, {books} codebooks, one clip, median of {runs}",
    f"{'':<18}{'ms':>9}{'x real time':>13}{'GFLOP':>9}{'of peak':>9}",
  ]
  for name, times in take_turns(ways, runs).items():
    median = float(np.median(times))
    flops = work[name.split(",")[0]]
    lines.append(
      f"{name:<18}{median * 1e3:9.1f}{seconds / median:13.1f}"
      f"{flops / 1e9:9.3g}{flops / median / machine.flops:9.0%}"
    )
  return "\n".join(lines)


def take_turns(ways: Mapping[str, Callable], runs: int) -> dict[str, list]:
  """Seconds of each way in each run, after one call to warm up."""
  times = {name: [] for name in ways}
  for run in range(runs + 1):
    for name, way in ways.items():
      start = time.perf_counter()
      way()
      if run:
        times[name].append(time.perf_counter() - start)
  return times


def _peer(model, books: int, x: np.ndarray) -> dict[str, Callable]:
  """The EnCodec of transformers, of the same shape, on CPUs."""
  if model.topology != "seanet" or jax.default_backend() != "cpu":
    return {}
  import torch
  import transformers

  # A little more than the books take, so that rounding keeps the last one.
  kbps = 1.0001e-3 * model.bits_per_second(books)
  config = transformers.EncodecConfig(
    target_bandwidths=[kbps],
    sampling_rate=model.rate,
    audio_channels=model.channels,
    normalize=model.normalize,
    chunk_length_s=model.chunk_seconds or None,
    overlap=model.overlap if model.chunk_seconds else None,
    hidden_size=model.dim,
    num_filters=model.filters,
    upsampling_ratios=list(model.ratios),
    norm_type="time_group_norm"
    if model.norm == "time_group"
    else "weight_norm",
    kernel_size=model.kernel,
    last_kernel_size=model.last_kernel,
    residual_kernel_size=model.residual_kernel,
    num_residual_layers=len(model.dilations),
    use_causal_conv=model.causal,
    pad_mode=model.pad_mode,
    compress=model.compress,
    num_lstm_layers=model.lstm_layers,
    codebook_size=model.codebook_size,
    use_conv_shortcut=model.shortcut == "conv",
  )
  peer = transformers.EncodecModel(config).eval()
  audio = torch.tensor(x).mT.contiguous()

  def run(method, *args):
    with torch.inference_mode():
      return method(*args)

  def encode():
    return run(peer.encode, audio, None, kbps)

  found = encode()
  return {
    "encode, PyTorch": encode,
    "decode, PyTorch": lambda: run(
      peer.decode, found.audio_codes, found.audio_scales
    ),
  }
