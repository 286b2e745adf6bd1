"""`mmdcodec bench codec`: where a codec's time goes.

Each part of the training step is compiled by itself, forward and backward, and
timed in turns with the others and the whole step, so that other load slows all
of them. Beside it is its floor: the time that its operations or bytes need at
the speeds of this machine, which are measured in the same run. Steps in a row,
with batches from the host as in training, say how much of a step is host;
reading the batches is in `mmdcodec bench data`. Then encoding and decoding are
timed; see `coding.py`.
"""

import argparse
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.bench import coding, floor, timing

HELP = "a codec's training step beside its floor, and its real-time factors"
EXAMPLE = "mmdcodec bench codec --config=codec_small --config.batch=16"
PARSES_REST = True
# Steps in a row, of which the host's share is measured.
ROW = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the subject's arguments."""
  coding.add_arguments(parser)
  parser.add_argument(
    "--codebooks", type=int, help="to encode with (default: all)"
  )


def parts(task: Any, optimizer: Any, state: Any, batch: Any) -> dict:
  """Returns the parts of a training step as `(function, arguments)`, by name.

  Each returns its outputs and gradients, so that the compiler cannot skip any
  work.
  """
  codec = task.codec
  x, lengths = batch["audio"], batch["lengths"]
  variables = {"params": state.params, **state.collections}
  mask = jnp.ones(x.shape[:2], bool)
  z = jax.eval_shape(
    lambda v: codec.apply(v, x, lengths, method="latents"), variables
  )
  z = jax.random.normal(jax.random.key(0), z.shape)
  y = 0.9 * x

  def encoder(params: Any, x: Any) -> Any:
    run = lambda p: codec.apply(
      {"params": p, **state.collections}, x, lengths, method="latents"
    )
    latents, pull = jax.vjp(run, params)
    return latents, pull(latents)

  def quantizer(collections: Any, z: Any) -> Any:
    # Calls a submodule of the codec from outside.
    def run(z: Any) -> Any:
      return codec.apply(
        {"params": state.params, **collections},
        z,
        train=True,
        rngs={"quantize": jax.random.key(0)},
        mutable=list(collections),
        method=lambda module, z, train: module.quantizer(z, train=train),
      )

    (out, changed), pull = jax.vjp(lambda z: run(z), z, has_aux=False)
    zeros = jax.tree.map(jnp.zeros_like, (out, changed))
    ones = zeros[0]._replace(z=out.z, commitment=jnp.ones(()))
    cotangent = jax.tree.map(_cotangent, (ones, zeros[1]))
    return out, changed, pull(cotangent)

  def decoder(params: Any, z: Any, x: Any) -> Any:
    # A training step takes the phases of x where codes hold none.
    run = lambda p, z: codec.apply(
      {"params": p, **state.collections},
      z,
      lengths,
      phases_of=x,
      method="synthesize",
    )
    audio, pull = jax.vjp(run, params, z)
    return audio, pull(audio)

  def losses(x: Any, y: Any) -> Any:
    weights = task.config["losses"]

    def total(y: Any) -> Any:
      found = task.reconstruction.values(x, y, mask)
      return sum(weights[name]["weight"] * v for name, v in found.items())

    return jax.value_and_grad(total)(y)

  def optimize(grads: Any, opt_state: Any, params: Any) -> Any:
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return jax.tree.map(jnp.add, params, updates), opt_state

  return {
    "encoder": (encoder, (state.params, x)),
    "quantizer": (quantizer, (state.collections, z)),
    "decoder": (decoder, (state.params, z, x)),
    "losses": (losses, (x, y)),
    "optimizer": (optimize, (state.params, state.opt_state, state.params)),
  }


def _cotangent(value: Any) -> Any:
  """Makes zero cotangents of integers, booleans and keys float0."""
  if jnp.issubdtype(value.dtype, jnp.floating):
    return value
  return jnp.zeros(value.shape, jax.dtypes.float0)


def turns(
  program: Any,
  state: Any,
  batch: Any,
  mesh: jax.sharding.Mesh,
  runs: int,
  *,
  looped: bool,
) -> tuple[float, float]:
  """Measures steps on the device alone, and steps as the training loop does.

  Args:
    program: the program of a training.
    state: its state.
    batch: a batch on the device.
    mesh: the mesh of the program.
    runs: turns, each of them with a measurement of both kinds; the medians are
      returned.
    looped: whether a row on the device alone is one program, so that the host
      gives the device one thing to do for all of its steps. On CPUs, gradients
      of convolutions are ten times slower in a loop, and giving a step to the
      device is next to nothing, so there each step is a call.

  Returns:
    Seconds of a step with its batch on the device; and from one step to the
    next with batches from the host, where each is placed while the step before
    it is computed.
  """
  from mmdcodec.parallel import mesh as mesh_lib

  host = jax.device_get(batch)
  state = jax.tree.map(jnp.copy, state)  # A step consumes its state.
  on_device, count, warm_up = program.step, 1, 0
  if looped:
    # It compiles in the first turn, and in the second one for a state with
    # another layout, that of a single step.
    on_device, count, warm_up = _row(program.step), ROW, 2
  alone, rows = [], []
  for _ in range(warm_up + runs):
    start = time.perf_counter()
    state, metrics = on_device(state, batch)
    jax.block_until_ready(metrics)
    alone.append((time.perf_counter() - start) / count)
    start = time.perf_counter()
    for _ in range(ROW):
      before = metrics
      state, metrics = program.step(state, mesh_lib.place(host, mesh))
      jax.block_until_ready(before)
    jax.block_until_ready(metrics)
    rows.append((time.perf_counter() - start) / ROW)
  median = lambda seconds: float(np.median(seconds[warm_up:]))
  return median(alone), median(rows)


def _row(step: Any) -> Any:
  """Makes one program of `ROW` steps on one batch."""

  def steps(state: Any, batch: Any) -> Any:
    return jax.lax.scan(lambda s, _: step(s, batch), state, length=ROW)

  return jax.jit(steps, donate_argnums=0)


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Measures, and prints the tables."""
  from mmdcodec.parallel import mesh as mesh_lib
  from mmdcodec.train import config_files
  from mmdcodec.train import optimizer as optimizer_lib
  from mmdcodec.train import program as program_lib
  from mmdcodec.train.task import make_task

  config = config_files.parse(rest).to_dict()
  task = make_task(config)
  optimizer, _ = optimizer_lib.make_optimizer(
    config["optimizer"], config["steps"]
  )
  shapes = task.batch_shapes(config["batch"])
  audio = 0.1 * jax.random.normal(jax.random.key(1), shapes["audio"].shape)
  lengths = jnp.full(shapes["lengths"].shape, audio.shape[1], jnp.int32)
  batch = {"audio": audio, "lengths": lengths}
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  program = program_lib.make_program(task, config, mesh)
  # The first step initializes the codebooks and must not be timed.
  state, _ = program.step(program.init(jax.random.key(0)), batch)
  # Timed repeatedly on one state, so the state must not be donated.
  donating: Any = program.step
  step = donating.__wrapped__

  machine = floor.Machine.measure()
  print(
    f"{jax.devices()[0].device_kind}: matmul {machine.flops / 1e9:.0f} GFLOP/s,"
    f" bandwidth {machine.bandwidth / 2**30:.1f} GiB/s (measured)"
  )
  print(
    f"batch {config['batch']} x {task.audio_seconds:g} s, forward and"
    f" backward, median of {args.runs}"
  )
  header = f"{'part':<12}{'ms':>9}{'share':>8}{'GFLOP':>9}{'MiB':>9}"
  print(header + f"{'floor ms':>10}{'x floor':>9}{'GFLOP/s':>9}")

  timed = parts(task, optimizer, state, batch)
  timed["whole step"] = step, (state, batch)
  times = timing.take_turns(
    {
      name: functools.partial(jax.jit(function), *arguments)
      for name, (function, arguments) in timed.items()
    },
    args.runs,
  )
  medians = {name: float(np.median(found)) for name, found in times.items()}
  for name, (function, arguments) in timed.items():
    seconds, flops = medians[name], floor.operations(function, *arguments)
    moved = floor.size_in_bytes(arguments) + floor.size_in_bytes(
      jax.eval_shape(function, *arguments)
    )
    least = machine.floor(flops, moved)
    print(
      f"{name:<12}{seconds * 1e3:9.1f}"
      f"{timing.ratio(times[name], times['whole step']):8.0%}"
      f"{flops / 1e9:9.3g}{moved / 2**20:9.1f}{least * 1e3:10.3g}"
      f"{seconds / least:9.1f}{flops / seconds / 1e9:9.1f}"
    )
  looped = jax.default_backend() != "cpu"
  device, loop = turns(program, state, batch, mesh, args.runs, looped=looped)
  share = max(1 - device / loop, 0.0)
  print(
    f"{loop * 1e3:.1f} ms a step in a row with batches from the host,"
    f" {loop / device:.2f} x the device's {device * 1e3:.1f}: {share:.0%} is"
    " host"
  )
  audio_seconds = config["batch"] * task.audio_seconds
  print(f"{audio_seconds / medians['whole step']:.1f} s of audio per second")
  print()
  print(
    coding.measure(
      config["model"],
      {"params": state.params, **state.collections},
      machine,
      seconds=args.seconds,
      codebooks=args.codebooks,
      runs=args.runs,
    )
  )
  return 0
