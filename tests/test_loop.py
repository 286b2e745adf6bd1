"""The training loop with a task that takes no time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.store import metrics
from mmdcodec.train import config_files, loop
from mmdcodec.train.task import Task


class Same:
  """A batch of eight, without end."""

  def __next__(self):
    """The next one."""
    return {"audio": np.zeros((8, 4), np.float32)}

  def get_state(self):
    """Where it is: nowhere."""
    return {"index": 0}

  def close(self):
    """Nothing to close."""


class Toy(Task):
  """A task of three numbers, in two phases."""

  kind, rules = "toy", ((".*", jax.sharding.PartitionSpec()),)
  audio_seconds = 0.25

  def batches(self, *, seed):
    """The same one, always."""
    return Same()

  def batch_shapes(self, batch):
    """Four samples each."""
    return {"audio": jax.ShapeDtypeStruct((batch, 4), jnp.float32)}

  def init(self, key):
    """One vector."""
    return {"params": {"w": jnp.ones(3)}}

  def phase(self, step):
    """Two steps, and then the rest."""
    return "early" if step < 2 else None

  def loss(self, params, collections, extra, batch, key, step, phase=None):
    """Says in which phase it was traced."""
    early = jnp.float32(phase == "early")
    value = jnp.sum(params["w"] ** 2) + 0 * jnp.sum(batch["audio"])
    return value, (collections, extra, {"early": early})


def test_phases_and_steps_under_way(tmp_path, monkeypatch):
  """Catches a phase at the wrong step, and a host that runs far ahead.

  Whatever has been given to a device is done before a run can stop, and keeps
  its batch in memory.
  """
  config = config_files.parse(["--config=encodec_24khz:tiny"])
  config.steps = config.save_every = config.eval_every = 5
  config.log_every = 1
  waited, given = [], []
  ready, make = jax.block_until_ready, loop.make_program

  def watched(task, config, mesh):
    program = make(task, config, mesh)

    def step(*arguments):
      # Of the steps before, all but the last one have been waited for.
      pairs = zip(waited, given[:-1], strict=True)
      assert all(one is other for one, other in pairs)
      state, values = program.step(*arguments)
      given.append(values)
      return state, values

    return dataclasses.replace(program, step=step)

  monkeypatch.setattr(loop, "make_program", watched)
  monkeypatch.setattr(loop, "make_task", Toy)

  def wait(x):
    # Others wait for arrays.
    if isinstance(x, dict):
      waited.append(x)
    return ready(x)

  monkeypatch.setattr(jax, "block_until_ready", wait)
  loop.train(config, tmp_path, log=lambda line: None)
  assert len(given) == 5
  rows = [row for row in metrics.read(tmp_path) if "train/early" in row]
  assert [row["train/early"] for row in rows] == [1, 1, 0, 0, 0]
