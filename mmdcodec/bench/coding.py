"""Times encoding and decoding for `mmdcodec bench codec`.

A loaded codec with random weights encodes NumPy audio to NumPy codes and
decodes it, which includes everything that a user waits for. All variants take
turns in one run, so that other load slows all of them. If `transformers` and
PyTorch are installed, their EnCodec of the same shape, if possible, takes turns
too. It has different random weights, so only times can be compared.
"""

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec.bench import floor, random_inputs, timing
from mmdcodec.errors import UserError
from mmdcodec.models.codec import Codec
from mmdcodec.tokenizers import loaded_codec


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds --runs and --seconds, how often and how much audio is timed."""
  parser.add_argument(
    "--runs", type=int, default=5, help="timed runs (default: %(default)s)"
  )
  parser.add_argument(
    "--seconds",
    type=float,
    default=10.0,
    help="of audio to encode and decode (default: %(default)s)",
  )


def measure(
  config: Mapping,
  variables: Any,
  machine: floor.Machine,
  *,
  seconds: float,
  codebooks: int | None,
  runs: int,
) -> str:
  """Makes a table of real-time factors and peak memory of the process.

  Args:
    config: fields of `Codec`.
    variables: codec variables.
    machine: speeds of the default device.
    seconds: length of the audio.
    codebooks: number of codebooks to use; None for all.
    runs: number of runs; the median is reported.
  """
  codec = loaded_codec.LoadedCodec(
    {"kind": "codec", "model": dict(config)}, jax.device_get(variables)
  )
  model: Any = codec.model
  books = codec.codebooks if codebooks is None else codebooks
  x = random_inputs.noise(seconds, codec.rate, codec.channels)
  codes, scale = codec.encode(x, codebooks=books, return_scale=True)

  def encode() -> Any:
    return codec.encode(x, codebooks=books)

  def decode() -> Any:
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
  reason = without_peer(model)
  if not reason:
    ways |= _peer(model, books, x)

  lines = [
    f"{seconds:g} s of audio, {books} codebooks, one clip, median of {runs}",
    f"{'':<18}{'ms':>9}{'x real time':>13}{'GFLOP':>9}{'of peak':>9}",
  ]
  for name, times in timing.take_turns(ways, runs).items():
    median = float(np.median(times))
    flops = work[name.split(",")[0]]
    lines.append(
      f"{name:<18}{median * 1e3:9.1f}{seconds / median:13.1f}"
      f"{flops / 1e9:9.3g}{flops / median / machine.flops:9.0%}"
    )
  if reason:
    lines.append(f"without PyTorch: {reason}")
  lines.append(_memory())
  return "\n".join(lines)


def _memory() -> str:
  """Describes the peak memory of this process."""
  try:
    import resource
  except ImportError:  # Windows
    return "memory: not measured"
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  unit = 2**20 if sys.platform == "darwin" else 2**10
  return (
    f"memory: {peak / unit:,.0f} MiB resident at the most, of the whole process"
    " since it began: all of the ways and parts above, and compiling them"
  )


def without_peer(model: Codec) -> str | None:
  """Explains why transformers' EnCodec cannot be compared, or returns None."""
  growth = _growth(model.dilations)
  levels = math.log2(model.codebook_size)
  reasons = {
    "timed on CPUs only": jax.default_backend() != "cpu",
    "this codec's topology is not EnCodec's": model.topology != "seanet",
    "EnCodec has no network without LSTM": model.lstm_layers == 0,
    "EnCodec has no network without norm": model.norm == "none",
    "EnCodec's dilations are 1, r, r**2, ...": growth is None,
    "EnCodec's codebooks have a power of two of codes": levels % 1 != 0,
    "EnCodec has 1 or 2 channels": model.channels > 2,
    "it computes in float32": model.dtype != "float32",
  } | {
    f"{name} is not installed": importlib.util.find_spec(name) is None
    for name in ("transformers", "torch")
  }
  return next((reason for reason, holds in reasons.items() if holds), None)


def _growth(dilations: Sequence[int]) -> int | None:
  """Returns r if the dilations are 1, r, r**2, ...; otherwise None."""
  rate = dilations[1] if len(dilations) > 1 else 1
  powers = [rate**j for j in range(len(dilations))]
  return rate if list(dilations) == powers else None


def _peer(model: Codec, books: int, x: np.ndarray) -> dict[str, Callable]:
  """Makes transformers' EnCodec of the same shape."""
  import torch
  import transformers

  # Slightly more than the codebooks need, so that rounding keeps the last one.
  # EnCodec rounds the frame rate up.
  bits = math.ceil(model.frame_rate) * math.log2(model.codebook_size)
  kbps = 1.0001e-3 * books * bits
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
    dilation_growth_rate=_growth(model.dilations),
    use_causal_conv=model.causal,
    trim_right_ratio=model.trim_right_ratio if model.causal else 1.0,
    pad_mode=model.pad_mode,
    compress=model.compress,
    num_lstm_layers=model.lstm_layers,
    codebook_size=model.codebook_size,
    use_conv_shortcut=model.shortcut == "conv",
  )
  peer = transformers.EncodecModel(config).eval()
  audio = torch.tensor(x).mT.contiguous()

  def run(method: Any, *args: Any) -> Any:
    with torch.inference_mode():
      return method(*args)

  def encode() -> Any:
    return run(peer.encode, audio, None, kbps)

  found = encode()
  return {
    "encode, PyTorch": encode,
    "decode, PyTorch": lambda: run(
      peer.decode, found.audio_codes, found.audio_scales
    ),
  }
