"""`mmdcodec bench lm`: speed of sampling from a language model, and its floor.

A step must read every weight once. That is the floor, at the bandwidth of this
machine, which is measured in the same run. All variants take turns. A model
with a depth transformer has two more: the same with heads, and that with one
code a step, which is the other way to the joint distribution of a frame's
codes. If `transformers` and PyTorch are installed, their MusicGen decoder of
the same shape takes turns too. It has different random weights, so only times
can be compared.
"""

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.bench import floor, timing
from mmdcodec.errors import UserError
from mmdcodec.generation import decoding, windows
from mmdcodec.models import fields, token_lm
from mmdcodec.models.conditioning import EncodedConditions
from mmdcodec.nn import cache

HELP = "a language model's decoding beside its floor"
EXAMPLE = "mmdcodec bench lm --steps 200 --config.model.layers=24"
PARSES_REST = True

# Length of a prompt in tokens.
PROMPT = 16
# Prompts and guidance, which doubles the rows of every product.
CASES = {
  f"batch {batch}{name}": (batch, guidance)
  for batch in (1, 2, 4, 8)
  for name, guidance in (("", 1.0), (", guidance", 3.0))
}
# Those that PyTorch takes turns with: it takes several times as long.
OF_PEER = ("batch 1", "batch 1, guidance", "batch 2, guidance", "batch 4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the subject's arguments."""
  parser.add_argument(
    "--steps",
    type=int,
    default=200,
    help="steps to sample (default: %(default)s)",
  )
  parser.add_argument(
    "--runs", type=int, default=5, help="timed runs (default: %(default)s)"
  )
  parser.description = (
    HELP + ". --config=NAME[:argument] is a training of a language model"
    " (musicgen with 6 layers in float32), and --config.key=value overrides any"
    " key of it."
  )


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Measures, and prints the table."""
  from mmdcodec.train import config_files

  for name in ("steps", "runs"):
    if getattr(args, name) < 1:
      raise UserError(f"--{name} is {getattr(args, name)}; at least 1.")
  if not any(argument.startswith("--config=") for argument in rest):
    # A realistic width, but small enough for a laptop's memory.
    rest = [
      "--config=musicgen", "--config.model.layers=6",
      "--config.model.dtype=float32", *rest,
    ]  # fmt: skip
  config = config_files.parse(rest).to_dict()
  if config["task"] != "lm":
    raise UserError("bench lm needs the config of a language model: lm_small.")
  # Conditions are passed as vectors.
  model = token_lm.from_config(
    config["model"] | {"conditions": {}, "pattern": None}
  )
  if args.steps < model.codebooks:
    raise UserError(
      f"--steps is {args.steps}; of a delay pattern of {model.codebooks}"
      f" codebooks at least {model.codebooks}."
    )
  print(measure(model, steps=args.steps, runs=args.runs))
  return 0


def measure(model: token_lm.TokenLM, *, steps: int, runs: int) -> str:
  """Makes a table of times per step and cache memory.

  Args:
    model: a decoder, whose conditions are `PROMPT` vectors.
    steps: number of steps to sample.
    runs: number of runs; the median is reported.
  """
  params = random_params(model)
  machine = floor.Machine.measure()
  ways, work, codes = {}, {}, {}
  for name, (batch, guidance) in CASES.items():
    ways[name] = sampling(model, params, steps, batch, guidance)
    work[name] = bytes_of_step(model, params, steps, batch, guidance)
    codes[name] = model.codebooks * batch
  if model.depth is not None:
    other = model.clone(depth=None)
    params_of_other = random_params(other)
    for name, pattern in {
      "batch 1, heads": "delay",
      "batch 1, heads, flattened": "flatten",
    }.items():
      other = other.clone(pattern=fields.freeze({"name": pattern}))
      ways[name] = sampling(other, params_of_other, steps, 1, 1.0)
      work[name] = bytes_of_step(other, params_of_other, steps, 1, 1.0)
      codes[name] = model.codebooks if pattern == "delay" else 1
  reason = without_peer(model)
  if not reason:
    ways |= peer(model, steps)
  times = timing.take_turns(ways, runs)
  rate = machine.bandwidth
  lines = [
    f"{steps} steps of {model.codebooks} codes, width {model.width},"
    f" {model.layers} layers, {PROMPT} vectors of a prompt, {model.dtype},"
    f" median of {runs}; bandwidth {rate / 1e9:.1f} GB/s",
    f"{'':<28}{'ms/step':>9}{'codes/s':>9}{'floor ms':>10}{'x floor':>9}",
  ]
  for name, seconds in times.items():
    median = float(np.median(seconds)) / steps
    plain = name.removesuffix(", PyTorch")
    least = work[plain] / rate
    lines.append(
      f"{name:<28}{median * 1e3:9.2f}{codes[plain] / median:9.0f}"
      f"{least * 1e3:10.2f}{median / least:9.2f}"
    )
  for name in ways:
    if name + ", PyTorch" in times:
      ratio = np.divide(times[name + ", PyTorch"], times[name])
      lines.append(
        f"{name}: {np.median(ratio):.2f} x PyTorch's codes per second (from"
        f" {ratio.min():.2f} to {ratio.max():.2f} over the runs)"
      )
  if reason:
    lines.append(f"without PyTorch: {reason}")
  if model.depth is not None:
    lines.append(
      f"depth transformer: {count(params[decoding.DEPTH]):,} parameters, heads"
      f" {count(params_of_other['head']):,}, all others"
      f" {count(params_of_other) - count(params_of_other['head']):,}"
    )
  lines.append(memory(model, params, steps))
  return "\n".join(lines)


def count(params: Any) -> int:
  """Counts the numbers of a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def random_params(model: token_lm.TokenLM) -> dict:
  """Makes random parameters in the form that the decoding loop uses."""
  vectors = jnp.zeros((1, PROMPT, model.width))
  given = None
  if model.cross:
    given = EncodedConditions(vectors, jnp.ones((1, PROMPT), bool))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: 0.02 * rng.standard_normal(s.shape, np.float32),
    token_lm.shapes(model, given)["params"],
  )
  return decoding.prepare(model, jax.device_put(params))


def sampling(
  model: token_lm.TokenLM,
  params: dict,
  steps: int,
  batch: int,
  guidance: float,
) -> Callable[[], jax.Array]:
  """Makes a function that samples `steps` steps, including prefill."""
  groups = 2 if guidance != 1 else 1
  flat = (model.pattern or {}).get("name") == "flatten"
  frames = steps // model.codebooks if flat else steps - model.codebooks + 1
  pattern = windows.pattern_of(model, frames)
  given = windows.given_tokens(
    pattern,
    np.full((batch, pattern.frames, model.codebooks), -1),
    model.special,
    steps,
  )
  vectors = jnp.ones((groups * batch, PROMPT, model.width))
  mask = jnp.ones((groups * batch, PROMPT), bool)
  request = decoding.DecodeRequest(
    encoded=EncodedConditions(
      *((vectors, mask) if model.cross else (None, None, vectors, mask))
    ),
    frames=jnp.zeros(steps, jnp.int32),
    given=jnp.asarray(given),
    keys=jax.random.split(jax.random.key(0), batch),
    temperature=jnp.float32(1.0),
    top_p=None,
    guidance=jnp.float32(guidance),
    double_guidance=jnp.float32(1.0),
  )

  def sample() -> jax.Array:
    state = decoding.prefill(model, params, request, 1, count=0, groups=groups)
    state = decoding.advance(
      model, params, request, state, steps + 1, groups=groups, top_k=250
    )
    return jax.block_until_ready(state.tokens)

  return sample


def bytes_of_step(
  model: token_lm.TokenLM,
  params: dict,
  steps: int,
  batch: int,
  guidance: float,
) -> float:
  """Counts the bytes that a step must read: weights, and half of the cache.

  Embedding tables are left out, because only one row of each is read, and so
  are the kernels of cross-attention keys and values, which are precomputed.
  """
  items = batch * (2 if guidance != 1 else 1)
  flat = jax.tree_util.tree_flatten_with_path(params)[0]
  weights = 0
  for path, leaf in flat:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if "embedding" in name or any(
      f"cross_attention/{part}" in name for part in ("key", "value")
    ):
      continue
    weights += leaf.nbytes
  return weights + items * cache_bytes(model, steps, 1) / 2


def cache_bytes(model: token_lm.TokenLM, steps: int, items: int) -> int:
  """Returns 2 x layers x items x steps x width x bytes (keys and values).

  With fewer `kv_heads`, width is width x kv_heads / heads.
  """
  heads = model.kv_heads or model.heads
  width = model.width * heads // model.heads
  size = jnp.dtype(model.dtype).itemsize
  return 2 * model.layers * items * steps * width * size


def memory(model: token_lm.TokenLM, params: dict, steps: int) -> str:
  """Compares the size of the actual cache with the formula."""
  transformer = token_lm.Transformer(**model.transformer_fields())
  held = jax.eval_shape(
    lambda: cache.empty(transformer, params["transformer"], 1, steps)
  )
  found = floor.size_in_bytes(held)
  return (
    f"cache of one item: {found:,} bytes; 2 x layers x steps x width x bytes ="
    f" {cache_bytes(model, steps, 1):,}"
  )


def without_peer(model: token_lm.TokenLM) -> str | None:
  """Explains why transformers' MusicGen cannot be compared, or returns None."""
  reasons = {
    "timed on CPUs only": jax.default_backend() != "cpu",
    "MusicGen has sinusoidal positions": model.positions != "sinusoidal",
    "MusicGen attends to its prompt": not model.cross,
    "MusicGen's heads all have keys": model.kv_heads not in (0, model.heads),
    "MusicGen's queries and keys are as they are": model.qk_norm,
    "MusicGen has heads": model.depth is not None,
    "it computes in float32": model.dtype != "float32",
  } | {
    f"{name} is not installed": importlib.util.find_spec(name) is None
    for name in ("transformers", "torch")
  }
  return next((reason for reason, holds in reasons.items() if holds), None)


def peer(model: token_lm.TokenLM, steps: int) -> dict:
  """Makes transformers' MusicGen decoder of the same shape."""
  import torch
  import transformers

  special = model.special
  config = transformers.MusicgenDecoderConfig(
    vocab_size=model.codebook_size,
    hidden_size=model.width,
    num_hidden_layers=model.layers,
    num_attention_heads=model.heads,
    ffn_dim=model.hidden,
    num_codebooks=model.codebooks,
    activation_function=model.activation,
    pad_token_id=special,
    bos_token_id=special,
    dropout=0.0,
  )
  theirs = transformers.MusicgenForCausalLM(config).eval()

  def sample(batch: int, guidance: float | None) -> Any:
    items = batch if guidance is None else 2 * batch
    with torch.inference_mode():
      return theirs.generate(
        torch.full((model.codebooks * batch, 1), special),
        encoder_hidden_states=torch.ones(items, PROMPT, model.width),
        encoder_attention_mask=torch.ones(items, PROMPT, dtype=torch.long),
        guidance_scale=guidance,
        # The first token is given.
        max_length=steps + 1,
        min_length=steps + 1,
        do_sample=True,
        top_k=250,
        # No default since transformers 5.24.
        num_return_sequences=1,
        decoder_start_token_id=special,
      )

  def way(batch: int, guidance: float) -> Callable:
    return lambda: sample(batch, None if guidance == 1 else guidance)

  return {f"{name}, PyTorch": way(*CASES[name]) for name in OF_PEER}
