"""Checks of training: of updates, of steps on a CPU and on several devices."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.selftest.check import Check, Devices, normal, off
from mmdcodec.selftest.references import wide
from mmdcodec.train import config_files
from mmdcodec.train import optimizer as optimizer_lib
from mmdcodec.train import program as program_lib
from mmdcodec.train import state as state_lib
from mmdcodec.train.task import Task, make_task

_CONFIGS = {
  "codec": "--config=codec_small:tiny",
  "lm": "--config=musicgen:tiny",
}
_METRICS = ("loss", "gradient_norm")
STEPS = 2


def random_batch(task: Task, size: int, random: np.random.Generator) -> Any:
  """Whole clips of noise, or of random codes."""
  shapes = task.batch_shapes(size)
  longest = shapes["codes" if "codes" in shapes else "audio"].shape[1]

  def make(path: Any, leaf: Any) -> np.ndarray:
    if "lengths" in jax.tree_util.keystr(path):
      return np.full(leaf.shape, longest, leaf.dtype)
    if np.issubdtype(leaf.dtype, np.floating):
      return 0.2 * random.standard_normal(leaf.shape).astype(leaf.dtype)
    return random.integers(0, 2, leaf.shape).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(make, shapes)


def _losses(kind: str, devices: Sequence[jax.Device]) -> list[dict[str, float]]:
  """The loss of a few steps, and the norm of all gradients."""
  config = config_files.parse([_CONFIGS[kind]]).to_dict()
  config["batch"] = 8
  config["model"] = {**config["model"], "dtype": "float32"}
  # From the first step on, with all its strength.
  config["optimizer"] = {**config["optimizer"], "warmup": 0}
  mesh = mesh_lib.make_mesh({"data": len(devices)}, devices)
  task = make_task(config)
  program = program_lib.make_program(task, config, mesh)
  random, found = np.random.default_rng(0), []
  with jax.set_mesh(mesh):
    state = program.init(jax.random.key(0))
    for step in range(STEPS):
      batch = random_batch(task, config["batch"], random)
      state, metrics = program.step(
        state, mesh_lib.place(batch, mesh), task.phase(step)
      )
      found.append({name: float(metrics[name]) for name in _METRICS})
  return found


def _compared(
  name: str, found: list[dict[str, float]], wanted: list[dict[str, float]]
) -> dict[str, float]:
  """How far the metrics of all steps are off."""
  off: dict[str, float] = {}
  for step, (one, other) in enumerate(zip(found, wanted, strict=True)):
    for key in _METRICS:
      size = max(abs(other[key]), 1e-6)
      off[f"{key} of step {step}, {name}"] = abs(one[key] - other[key]) / size
  return off


def step(kind: str, devices: Devices) -> dict[str, float]:
  """A step of training on this device, on the CPU, and on several devices."""
  several = jax.devices(devices.tested.platform)
  several = several[: max(n for n in (1, 2, 4, 8) if n <= len(several))]
  if devices.reference is None and len(several) == 1:
    return {}
  alone, found = _losses(kind, [devices.tested]), {}
  if devices.reference is not None:
    with jax.default_device(devices.reference):
      there = _losses(kind, [devices.reference])
    found |= _compared("on the CPU", alone, there)
  if len(several) > 1:
    found |= _compared(
      f"on {len(several)} devices", alone, _losses(kind, several)
    )
  return found


def updates(devices: Devices) -> dict[str, float]:
  """AdamW's, with clipping, warm-up and decay of the rate, and averages."""
  config = dict(
    name="adamw", learning_rate=0.1, schedule="cosine", warmup=2, final=0.01,
    b1=0.8, b2=0.95, weight_decay=0.2, clip=3.0,
  )  # fmt: skip
  count, average = 6, 0.3
  optimizer, _ = optimizer_lib.make_optimizer(config, count)
  start = {"kernel": normal(6, 5), "bias": normal(5)}
  state = state_lib.TrainState.create(
    {"params": start}, optimizer, ema=True
  )
  step = jax.jit(
    lambda state, grads: state_lib.update(
      state, grads, {}, jax.numpy.float32(1), optimizer, ema_decay=average
    )[0]
  )
  wanted: dict[str, Any] = {name: wide(x) for name, x in start.items()}
  kept: dict[str, Any] = dict(wanted)
  m: dict[str, Any] = dict.fromkeys(start, 0.0)
  v: dict[str, Any] = dict.fromkeys(start, 0.0)
  for i in range(count):
    # Some are clipped, some are not.
    grads = {n: normal(*x.shape, seed=i) / (1 + i) for n, x in start.items()}
    state = step(state, grads)
    norm = np.sqrt(sum((wide(g) ** 2).sum() for g in grads.values()))
    rate = 0.1 * (i + 1) / 2
    if i >= 2:
      rate = 0.1 * (0.01 + 0.99 * (1 + np.cos(np.pi * (i - 2) / 4)) / 2)
    share = min(average, (1 + i) / (10 + i))
    for n, g in grads.items():
      g = wide(g) * min(1.0, 3.0 / norm)
      m[n] = 0.8 * m[n] + 0.2 * g
      v[n] = 0.95 * v[n] + 0.05 * g**2
      move = m[n] / (1 - 0.8 ** (i + 1))
      move = move / (np.sqrt(v[n] / (1 - 0.95 ** (i + 1))) + 1e-8)
      move = move + (0.2 * wanted[n] if n == "kernel" else 0.0)
      wanted[n] = wanted[n] - rate * move
      kept[n] = share * kept[n] + (1 - share) * wanted[n]
  found = {}
  for n in start:
    found[f"the {n}"] = off(state.params[n] - start[n], wanted[n] - start[n])
    found[f"the average {n}"] = off(state.ema[n] - start[n], kept[n] - start[n])
  return found


CHECKS = (
  Check("training, updates", "be AdamW's of float64", updates),
  *(
    Check(
      f"training, {name}",
      "have the same losses and gradients everywhere",
      functools.partial(step, kind),
      1e-3,
    )
    for kind, name in (("codec", "codec"), ("lm", "language model"))
  ),
)
