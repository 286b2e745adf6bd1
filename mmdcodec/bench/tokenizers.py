"""`mmdcodec bench tokenizers`: real-time factors beside the floor.

Clips go through each tokenizer, NumPy audio to NumPy codes: the front end, the
network and the search for codes. The tokenizers take turns in one process, so
that other load slows all of them. The floor is the time that the operations of
their compiled programs need at the speed of a large matmul, measured in the
same run, or the reading of their weights if that takes longer.

Of w2v-BERT 2.0 only the blocks below its features are made, in the published
size. If `transformers` and PyTorch are installed, theirs takes turns too, with
its own front end but without a search for codes: cut to the same blocks, and
whole, since it has no way to stop at a block.
"""

import argparse
import copy
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mmdcodec import bundle, formatting
from mmdcodec.bench import codecs, coding, floor, random_inputs, timing
from mmdcodec.errors import UserError
from mmdcodec.models import weights
from mmdcodec.tokenizers.clustered import Clustered
from mmdcodec.tokenizers.interface import Tokenizer

HELP = "tokenizers of all kinds beside their floors"
EXAMPLE = "mmdcodec bench tokenizers --model bundles/semantic"
CONFIGS = ("semantic:small", "mulan:small", "codec_small")
# Public networks by name; each has only the blocks that its features need.
PUBLIC: dict[str, dict[str, Any]] = {
  "w2v_bert": {"network": "w2v_bert", "layers": 7, "feature_layer": 7}
}
_COMPILED = type(jax.jit(lambda: None))


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the subject's arguments."""
  parser.add_argument(
    "--model",
    action="append",
    help="bundle or workdir of a tokenizer; may be repeated (default: networks"
    f" with random weights, {', '.join(CONFIGS)})",
  )
  parser.add_argument(
    "--configs",
    nargs="+",
    metavar="NAME",
    help="networks with random weights, of configs as for `train`, or "
    + " or ".join(PUBLIC),
  )
  parser.add_argument(
    "--batch",
    type=int,
    default=8,
    metavar="N",
    help="clips of the second measurement (default: %(default)s)",
  )
  coding.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
  """Measures, and prints the table."""
  if args.runs < 1 or args.batch < 1 or not 0.1 <= args.seconds <= 600:
    raise UserError(
      "bench tokenizers needs at least 1 run and 1 clip, and 0.1 to 600"
      f" seconds; got {args.runs}, {args.batch} and {args.seconds:g}."
    )
  found: dict[str, Tokenizer] = {}
  for path in args.model or ():
    found[path] = bundle.load_tokenizer(path)
    found[path].check_codes_suffice()
  for name in args.configs or (() if args.model else CONFIGS):
    found[name] = random_tokenizer(name)
  ways: dict[str, Callable[[], Any]] = {}
  cases = []
  for name, tokenizer in found.items():
    for batch in sorted({1, args.batch}):
      x = random_inputs.noise(
        args.seconds, tokenizer.rate, tokenizer.channels, batch=batch
      )
      ways[f"{name}, {batch}"] = functools.partial(tokenizer.encode, x)
      cases.append((name, tokenizer, batch, operations(tokenizer, x)))
  reason = codecs.without_peers()
  if not reason:
    for name in {*found} & {*PUBLIC}:
      ways |= _peers(name, args.seconds)
  machine = floor.Machine.measure()
  times = timing.take_turns(ways, args.runs)
  columns = ["", "M params", "codes a second", "clips", "GFLOP a second"]
  columns += ["x real time", "floor", "share of it (%)"]
  rows = []
  for name, tokenizer, batch, work in cases:
    variables = getattr(tokenizer, "variables", {})
    least = machine.floor(work, floor.size_in_bytes(variables))
    median = float(np.median(times[f"{name}, {batch}"]))
    audio = batch * args.seconds
    parameters = jax.tree.leaves(dict(variables).get("params", {}))
    rows.append(
      (
        name,
        sum(leaf.size for leaf in parameters) / 1e6,
        tokenizer.frame_rate * tokenizer.codebooks,
        batch,
        work / 1e9 / audio,
        audio / median,
        audio / least if least else float("nan"),
        100 * least / median,
      )
    )
  print(
    f"{jax.devices()[0].device_kind}: matmul {machine.flops / 1e9:.0f} GFLOP/s,"
    f" bandwidth {machine.bandwidth / 2**30:.1f} GiB/s (measured)\n"
    f"{args.seconds:g} s of audio in a clip, median of {args.runs}"
  )
  for name in [name for name in times if ", PyTorch" in name]:
    median = float(np.median(times[name]))
    nothing = float("nan")
    factor = args.seconds / median
    rows.append((name, nothing, nothing, 1, nothing, factor, nothing, nothing))
  print(formatting.table(columns, rows))
  if reason and {*found} & {*PUBLIC}:
    print(f"without PyTorch: {reason}")
  return 0


def random_tokenizer(name: str) -> Tokenizer:
  """A tokenizer of random numbers.

  Args:
    name: its config, as for `train`.

  Raises:
    UserError: the config is not that of a tokenizer.
  """
  config: dict[str, Any] = {"kind": "semantic", "model": PUBLIC.get(name)}
  if name not in PUBLIC:
    from mmdcodec.train import config_files

    settings = config_files.parse([f"--config={name}"]).to_dict()
    config = {"kind": settings["task"], "model": settings["model"]}
  # A music model would need the weights of its codec too.
  if config["kind"] == "lm" or config["kind"] not in weights.SHAPES:
    raise UserError(f"{name} is not the config of a tokenizer.")
  variables = random_inputs.variables(weights.shapes(config))
  contents = bundle.Contents(config, variables, {}, None)
  tokenizer = bundle.opened(name, contents)
  if not isinstance(tokenizer, Tokenizer):
    raise UserError(f"{name} is not the config of a tokenizer.")
  if not isinstance(tokenizer, Clustered):
    return tokenizer
  rows, _ = tokenizer.features(*tokenizer.prepare(np.zeros(1000)))
  dim = np.shape(rows)[-1]
  rng = np.random.default_rng(0)
  shape = (tokenizer.usual_levels, tokenizer.usual_codes, dim)
  statistics = {"mean": np.zeros(dim), "scale": np.ones(dim)}
  config, variables = tokenizer.with_codebooks(
    statistics, rng.standard_normal(shape, np.float32)
  )
  return type(tokenizer)(config, variables, {})


def operations(tokenizer: Tokenizer, x: np.ndarray) -> float:
  """Counts the operations of the compiled programs that encode a batch.

  What is computed in NumPy does not count.

  Args:
    tokenizer: programs are attributes of it.
    x: [batch, samples, channels].
  """
  counted, total = copy.copy(tokenizer), 0.0

  def counting(program: Any) -> Any:
    def call(*args: Any) -> Any:
      nonlocal total
      total += floor.operations(program, *args)
      return program(*args)

    return call

  for name, value in vars(tokenizer).items():
    if isinstance(value, _COMPILED):
      setattr(counted, name, counting(value))
  counted.encode(x)
  return total


def _peers(name: str, seconds: float) -> dict[str, Callable[[], Any]]:
  """Features of one clip by transformers' w2v-BERT 2.0, on CPUs."""
  import torch
  import transformers

  blocks = PUBLIC[name]["layers"]
  whole = transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig())
  cut = transformers.Wav2Vec2BertModel(
    transformers.Wav2Vec2BertConfig(num_hidden_layers=blocks)
  )
  front_end = transformers.SeamlessM4TFeatureExtractor()
  rate = front_end.sampling_rate
  x = random_inputs.noise(seconds, rate, 1)[0, :, 0]

  def run(network: Any) -> Any:
    with torch.inference_mode():
      spectra = front_end(x, sampling_rate=rate, return_tensors="pt")
      return network(**spectra).last_hidden_state.numpy()

  return {
    f"{name}, PyTorch": functools.partial(run, cut.eval()),
    f"{name}, PyTorch, whole": functools.partial(run, whole.eval()),
  }
