"""`mmdcodec bench codecs`: codecs of all topologies side by side.

One clip goes through each codec, NumPy to NumPy, with at most 8 codebooks. The
codecs take turns in one process, so that other load slows all of them, and the
ratios are medians over the runs. If `transformers` and PyTorch are installed,
their codecs for 24 kHz take turns too, in the published sizes. All weights are
random: they change what is heard, and not how long it takes.
"""

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mmdcodec import formatting
from mmdcodec.bench import (
  coding,
  floor,
  loss_estimators,
  random_inputs,
  timing,
)
from mmdcodec.errors import UserError
from mmdcodec.models import codec as codec_lib
from mmdcodec.tokenizers.loaded_codec import LoadedCodec

HELP = "codecs of all topologies, and PyTorch's, in turns"
EXAMPLE = "mmdcodec bench codecs --configs spectral_24khz encodec_24khz"
CONFIGS = ("spectral_24khz", "spectral_small", "encodec_24khz", "codec_small")
CODEBOOKS, RATE = 8, 24000

# Encodes and decodes the clip.
Ways = tuple[Callable[[], Any], Callable[[], Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the subject's arguments."""
  parser.add_argument(
    "--configs",
    nargs="+",
    default=CONFIGS,
    metavar="NAME",
    help="of codecs, as for `train`; ratios are to the first (default: "
    + ", ".join(CONFIGS)
    + ")",
  )
  coding.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
  """Measures, and prints the tables."""
  if args.runs < 1 or not 0.1 <= args.seconds <= 60:
    raise UserError(
      "bench codecs needs at least 1 run and 0.1 to 60 seconds; got"
      f" {args.runs} and {args.seconds:g}."
    )
  from mmdcodec.train import config_files

  ways, facts = {}, {}
  for name in args.configs:
    config = config_files.parse([f"--config={name}"]).to_dict()
    if config["task"] != "codec":
      raise UserError(f"{name} is not the config of a codec.")
    codec = random_codec(config["model"])
    ways[name], facts[name] = _ours(codec, args.seconds)
  reason = without_peers()
  if not reason:
    for name, (peer, parameters) in peers(args.seconds).items():
      ways[name] = peer
      facts[name] = [parameters / 1e6] + 2 * [float("nan")]
  times = timing.take_turns(
    {
      f"{name}, {way}": function
      for name, pair in ways.items()
      for way, function in zip(("encode", "decode"), pair, strict=True)
    },
    args.runs,
  )
  print(
    f"{args.seconds:g} s of audio, at most {CODEBOOKS} codebooks, one clip,"
    f" median of {args.runs}, random weights"
  )
  print(table(times, facts, args.seconds))
  print(
    "GFLOP: of encoding and decoding a second of audio; MiB: weights, and"
    " temporaries of the larger of the two programs; ratio: of the time to that"
    f" of {next(iter(facts))} in the same turn, the median"
  )
  if reason:
    print(f"without PyTorch: {reason}")
  return 0


def table(
  times: dict[str, list[float]],
  facts: dict[str, list[float]],
  seconds: float,
) -> str:
  """Real-time factors, and medians of the ratios to the first codec.

  Args:
    times: "NAME, encode" and "NAME, decode" -> seconds of each run.
    facts: name -> millions of parameters, GFLOP a second of audio, MiB.
    seconds: of audio.
  """
  columns = ["", "M params", "GFLOP", "MiB"]
  columns += ["encode x real time", "ratio", "decode x real time", "ratio"]
  first, rows = next(iter(facts)), []
  for name, known in facts.items():
    row: list[Any] = [name, *known]
    for way in ("encode", "decode"):
      here = times[f"{name}, {way}"]
      row += [
        float(seconds / np.median(here)),
        timing.ratio(here, times[f"{first}, {way}"]),
      ]
    rows.append(row)
  return formatting.table(columns, rows)


def random_codec(fields: dict) -> LoadedCodec:
  """A codec of random numbers; nothing is compiled to make it."""
  model = codec_lib.from_config(fields)
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 2 * model.stride, model.channels), np.float32),
  )
  variables = random_inputs.variables(shapes)
  return LoadedCodec({"kind": "codec", "model": fields}, variables)


def _ours(codec: LoadedCodec, seconds: float) -> tuple[Ways, list[float]]:
  """Ways of a codec; its millions of parameters, GFLOP a second, and MiB."""
  model: Any = codec.model
  x = random_inputs.noise(seconds, codec.rate, codec.channels)
  books = min(CODEBOOKS, codec.codebooks)
  codes, scale = codec.encode(x, codebooks=books, return_scale=True)
  variables = codec.variables

  def encode(v: Any, x: Any) -> Any:
    return model.apply(v, x, codebooks=books, method="encode").codes

  def decode(v: Any, codes: Any) -> Any:
    return model.apply(v, codes, scale=scale, method="decode")

  pairs = (encode, x), (decode, codes)
  flops = sum(floor.operations(f, variables, given) for f, given in pairs)
  temporaries = max(
    loss_estimators.temporaries(jax.jit(f).lower(variables, given).compile())
    for f, given in pairs
  )
  parameters = sum(a.size for a in jax.tree.leaves(variables["params"]))
  memory = floor.size_in_bytes(variables) / 2**20 + temporaries
  return (
    lambda: codec.encode(x, codebooks=books),
    lambda: codec.decode(codes, scale=scale),
  ), [parameters / 1e6, flops / 1e9 / seconds, memory]


def without_peers() -> str | None:
  """Explains why PyTorch's codecs cannot be timed, or returns None."""
  if jax.default_backend() != "cpu":
    return "timed on CPUs only"
  for name in "transformers", "torch":
    if importlib.util.find_spec(name) is None:
      return f"{name} is not installed"
  return None


def peers(seconds: float) -> dict[str, tuple[Ways, int]]:
  """Ways and numbers of parameters of the codecs for 24 kHz in transformers.

  EnCodec and DAC with 8 codebooks at 75 Hz, 6 kbps; Mimi with 8 at 12.5 Hz,
  1.1 kbps. DAC's sizes are those of descript/dac_24khz.
  """
  import torch
  import transformers

  audio = torch.tensor(random_inputs.noise(seconds, RATE, 1)).mT.contiguous()
  dac = transformers.DacConfig(
    sampling_rate=RATE,
    n_codebooks=32,
    downsampling_ratios=[2, 4, 5, 8],
    upsampling_ratios=[8, 5, 4, 2],
  )
  models: dict[str, tuple[Any, Callable, Callable]] = {
    "EnCodec": (
      transformers.EncodecModel(transformers.EncodecConfig()),
      lambda model: model.encode(audio, None, 6.0),
      lambda model, c: model.decode(c.audio_codes, c.audio_scales),
    ),
    "DAC": (
      transformers.DacModel(dac),
      lambda model: model.encode(audio, n_quantizers=CODEBOOKS),
      lambda model, c: model.decode(audio_codes=c.audio_codes),
    ),
    "Mimi": (
      transformers.MimiModel(transformers.MimiConfig()),
      lambda model: model.encode(audio, num_quantizers=CODEBOOKS),
      lambda model, c: model.decode(c.audio_codes),
    ),
  }

  def ways(model: Any, encode: Callable, decode: Callable) -> Ways:
    model.eval()

    def run(function: Callable, *given: Any) -> Any:
      with torch.inference_mode():
        return function(model, *given)

    codes = run(encode)
    return lambda: run(encode), lambda: run(decode, codes)

  return {
    f"{name}, PyTorch": (
      ways(*found),
      sum(p.numel() for p in found[0].parameters()),
    )
    for name, found in models.items()
  }
