"""A task that takes no time, to test the training loop."""

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.train import config_files
from mmdcodec.train.task import Task


def toy_config(**changes):
  """The config of a run of `Toy`, with changes by key of the top level."""
  config = config_files.parse(["--config=encodec_24khz:tiny"])
  config.steps = config.save_every = config.eval_every = 5
  config.log_every = 1
  config.update(changes)
  return config


class Same:
  """A batch of eight, without end."""

  def __next__(self):
    """The next one."""
    return {"audio": np.zeros((8, 4), np.float32)}

  def get_state(self):
    """Where it is: nowhere."""
    return {"index": 0}

  def set_state(self, state):
    """All places are alike."""

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
