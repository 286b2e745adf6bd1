"""Speeds of training: a language model's step, and the loop around a codec's.

`mmdcodec bench codec` says where the time of a step goes.
"""

import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np

from mmdcodec.bench import codec as codec_bench
from mmdcodec.bench import data
from mmdcodec.parallel import flops
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.selftest.speed import RUNS, Row, Speeds
from mmdcodec.selftest.training import random_batch
from mmdcodec.train import config_files, loop, opening, settings
from mmdcodec.train import program as program_lib
from mmdcodec.train.task import make_task

_RATE = "train/steps_per_second"


def of_steps(speeds: Speeds) -> list[Row]:
  """A step of training a language model in bfloat16: MusicGen's 300 M."""
  config = config_files.parse(["--config=musicgen"]).to_dict()
  # Nothing is computed twice, so that all operations count.
  changes = dict(conditions={}, cross=False, frames=500, remat="none")
  config |= dict(batch=8, freeze="")
  if jax.default_backend() == "cpu":
    changes |= dict(layers=2, width=256, heads=4, hidden=1024, frames=64)
    config["batch"] = 2
  config["model"] = {**config["model"], **changes}
  mesh = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
  task = make_task(config)
  program = program_lib.make_program(task, config, mesh)
  times = []
  with jax.set_mesh(mesh):
    batch = random_batch(task, config["batch"], np.random.default_rng(0))
    batch = mesh_lib.place(batch, mesh)
    work = flops.count(program.step.trace(program.abstract, batch).jaxpr)
    state = program.init(jax.random.key(0))
    for _ in range(1 + RUNS):
      start = time.perf_counter()
      state, metrics = program.step(state, batch)
      jax.block_until_ready((state, metrics))
      times.append(time.perf_counter() - start)
  took = float(np.median(times[1:]))
  size = sum(leaf.size for leaf in jax.tree.leaves(program.abstract.params))
  steps = config["batch"] * changes["frames"]
  return [
    Row(
      f"training step, language model of {size / 1e6:.0f} M, bfloat16",
      took,
      f"{steps / took:.0f} frames/s",
      peak=work / took / speeds.bfloat16,
    )
  ]


def _train(
  config: dict[str, Any], workdir: pathlib.Path
) -> tuple[float, float]:
  """Trains; seconds to the first step, and of a later one."""
  begun, start = [], time.perf_counter()

  def log(line: str) -> None:
    if line.startswith("the training step") and not begun:
      begun.append(time.perf_counter() - start)

  loop.train(config, workdir, log=log)
  rows = [
    json.loads(line)
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  rates = [row[_RATE] for row in rows if _RATE in row]
  return begun[0], 1 / rates[-1]


def of_loop(speeds: Speeds) -> list[Row]:
  """Training the quickstart's codec: to its first step, and from there on."""
  small = jax.default_backend() == "cpu"
  name = "quickstart:tiny" if small else "quickstart"
  before = jax.config.values["jax_compilation_cache_dir"]
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    config = config_files.parse([f"--config={name}"]).to_dict()
    config["data"] |= dict(train=str(data.make(folder)), valid="")
    config |= dict(
      steps=1, log_every=1, compilation_cache=str(folder / "programs"),
      # Codebooks from the first step on: one kind of step.
      quantizer_start=0,
    )  # fmt: skip
    task, mesh = opening.open_task(config, folder, lambda line: None)
    try:
      jax.clear_caches()
      cold, _ = _train(config, folder / "cold")
      jax.clear_caches()
      config |= dict(steps=12, log_every=6)
      if not small:
        config |= dict(steps=120, log_every=40)
      warm, each = _train(config, folder / "warm")
      with jax.set_mesh(mesh):
        program = program_lib.make_program(task, config, mesh)
        batch = random_batch(task, config["batch"], np.random.default_rng(0))
        batch = mesh_lib.place(batch, mesh)
        state, _ = program.step(program.init(jax.random.key(0)), batch)
        alone, _ = codec_bench.turns(
          program, state, batch, mesh, RUNS, looped=not small
        )
    finally:
      settings.use_compilation_cache(before or "off")
  rows = [
    Row(
      f"training loop, {name}",
      each,
      f"{each / alone:.2f} x the step of the device alone",
    ),
    Row(f"first step, {name}, nothing compiled", cold, f"{cold:.1f} s"),
  ]
  # Unless the user turned it off.
  if jax.config.values["jax_enable_compilation_cache"]:
    rows.append(
      Row(f"first step, {name}, programs kept", warm, f"{warm:.1f} s")
    )
  return rows
