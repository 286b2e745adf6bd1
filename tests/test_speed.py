"""Speed per device, MFU, memory."""

import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_task import Same, Toy, toy_config

from mmdcodec.parallel import chips, flops
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.store import metrics
from mmdcodec.train import config_files, loop, opening, speed
from mmdcodec.train.program import make_program
from mmdcodec.train.saving import Saver
from mmdcodec.train.task import make_task

PEAK = 1e9
CHIP = chips.Chip("abacus", 1, PEAK, 1.0, 0.0)


class Products(Toy):
  """A product of 8 x 4 and 4 x 3 in one phase, two of them in the other."""

  positions = 50

  def loss(self, params, collections, extra, batch, key, step, phase=None):
    """Forward and, of the weights, backward: two products each."""
    w = params["w"] * jnp.ones((4, 1))
    times = 2 if phase == "early" else 1
    y = sum(jnp.sum((batch["audio"] + i) @ w) for i in range(times))
    return y, (collections, extra, {})


@pytest.mark.usefixtures("all_devices")
def test_a_run_says_how_fast_its_devices_are(tmp_path, monkeypatch):
  """Catches operations of the wrong steps, devices that count twice."""
  monkeypatch.setattr(opening, "make_task", Products)
  monkeypatch.setattr(chips, "find", lambda kind: CHIP)
  stats = iter(range(1, 1000))
  monkeypatch.setattr(
    speed, "memory", lambda: {"hbm_gib": next(stats), "hbm_peak_gib": 9.0}
  )
  lines = []
  loop.train(toy_config(), tmp_path, log=lines.append)
  rows = [row for row in metrics.read(tmp_path) if "train/loss" in row]
  one = 2 * 8 * 4 * 3 * 2  # of one product and its gradient
  wanted = [2 * one, 2 * one, one, one, one]  # Toy's early phase is two steps
  for row, flop in zip(rows, wanted, strict=True):
    rate = row["train/steps_per_second"]
    np.testing.assert_allclose(
      row["train/mfu"], flop * rate / (8 * PEAK), rtol=1e-6
    )
    np.testing.assert_allclose(
      row["train/tokens_per_second_per_device"], rate * 8 * 50 / 8
    )
    np.testing.assert_allclose(
      row["train/audio_per_second_per_device"], rate * 8 * 0.25 / 8
    )
    assert row["train/hbm_peak_gib"] == 9
  assert sum("MFU " in line for line in lines) == 5


def test_what_a_device_does_not_say_is_left_out(tmp_path, monkeypatch):
  """Catches figures that are guessed: on CPUs neither is known."""
  monkeypatch.setattr(opening, "make_task", Toy)
  loop.train(toy_config(), tmp_path, log=lambda line: None)
  names = {name for row in metrics.read(tmp_path) for name in row}
  assert "train/audio_per_second_per_device" in names
  assert not any("mfu" in n or "hbm" in n or "tokens" in n for n in names)
  devices = [
    types.SimpleNamespace(
      memory_stats=lambda n=n: {
        "bytes_in_use": n * 2**29,
        "peak_bytes_in_use": n * 2**30,
      }
    )
    for n in (1, 2)
  ]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  assert speed.memory() == {"hbm_gib": 1, "hbm_peak_gib": 2}


@pytest.mark.parametrize("remat", ["none", "full"])
def test_what_is_computed_again_is_no_use(remat, monkeypatch):
  """Catches an MFU that rises when a model recomputes its blocks."""
  monkeypatch.setattr(chips, "find", lambda kind: CHIP)
  config = config_files.parse(
    ["--config=musicgen:tiny", f"--config.model.remat={remat}"]
  ).to_dict()
  mesh = mesh_lib.make_mesh()
  task = make_task(config)
  program = make_program(task, config, mesh)
  with jax.set_mesh(mesh):
    batch = jax.tree.map(
      lambda x: jax.device_put(
        np.zeros(x.shape, x.dtype), mesh_lib.batch_sharding(mesh)
      ),
      task.batch_shapes(config["batch"]),
    )
    measure = speed.Speed(task, config, program, mesh)
    measure.add(batch, None)
    measure.add(batch, None)
    traced = program.step.trace(program.abstract, batch, None)
  done = flops.count(traced.jaxpr)
  if remat == "none":
    assert measure.flops == 2 * done
  else:
    assert 0.7 * done < measure.flops / 2 < 0.85 * done
  # Each weight of a matrix is used at each position, forward and twice back.
  matrices = sum(x.size for x in jax.tree.leaves(program.abstract.params))
  positions = config["batch"] * task.positions
  assert 0.3 < measure.flops / 2 / (6 * matrices * positions) < 3


def test_the_speed_is_that_of_steps_alone(tmp_path, monkeypatch):
  """Catches time of saving and evaluating, and steps that take none.

  A step has ended when its metrics are there, which takes a second here.
  """

  class Evaluated(Toy):
    def held_out(self):
      return [next(Same())]

    def evaluate(self, variables, batches):
      clock.append(clock[-1] + 100)
      return {"loss": 1.0}

  clock, get, save = [0.0], jax.device_get, Saver.save

  def fetch(tree):
    if isinstance(tree, dict) and "loss" in tree:
      clock.append(clock[-1] + 1)
    return get(tree)

  def slow_save(*given):
    clock.append(clock[-1] + 100)
    save(*given)

  monkeypatch.setattr(time, "perf_counter", lambda: clock[-1])
  monkeypatch.setattr(jax, "device_get", fetch)
  monkeypatch.setattr(Saver, "save", slow_save)
  monkeypatch.setattr(opening, "make_task", Evaluated)
  config, lines = toy_config(eval_every=2, save_every=2), []
  loop.train(config, tmp_path, log=lines.append)
  rows = [row for row in metrics.read(tmp_path) if "train/loss" in row]
  np.testing.assert_allclose(
    [row["train/steps_per_second"] for row in rows], [1.0] * 5
  )
  said = [line for line in lines if " was ready " in line]
  assert said == [
    "the training step of phase 'early' was ready after 0.00 s",
    "the training step was ready after 0.00 s",
  ]
