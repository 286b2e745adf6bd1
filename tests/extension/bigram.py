"""A task of a user's own: a table of which code follows which."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from mmdcodec.configs import common

from mmdcodec.data import token_batches
from mmdcodec.train.task import Task


class Bigram(Task):
  """Logits of the next code, by the last."""

  kind, rules = "bigram", [(".*", PartitionSpec())]
  best_metric = "valid/nats"
  frames, audio_seconds = 20, 0.5

  def batches(self, *, seed):
    """See the base class."""
    return token_batches.token_batches(seed=seed, **self._crops())

  def held_out(self):
    """See the base class."""
    return token_batches.fixed_token_batches(count=1, **self._crops())

  def _crops(self):
    data, batch = self.config["data"]["train"], self.config["batch"]
    return dict(datasets=data, batch=batch, frames=self.frames)

  def batch_shapes(self, batch):
    """See the base class."""
    return {"codes": jax.ShapeDtypeStruct((batch, self.frames, 1), jnp.int32)}

  def init(self, key):
    """See the base class."""
    size = self.config["model"]["size"]
    return {"params": {"table": jnp.zeros((size, size))}}

  def loss(self, params, collections, extra, batch, key, step, phase=None):
    """See the base class."""
    codes = batch["codes"][..., 0]
    nats = -jax.nn.log_softmax(params["table"][codes[:, :-1]])
    each = jnp.take_along_axis(nats, codes[:, 1:, None], axis=-1)
    return each.mean(), (collections, extra, {})

  def evaluate(self, variables, batches):
    """See the base class."""
    params = variables["params"]
    nats = [self.loss(params, {}, None, x, None, 0)[0] for x in batches]
    return {"nats": sum(nats) / len(nats)}


def get_config(arg=""):
  """Settings of a run."""
  config = common.run_config(f"{__file__}:Bigram")
  config.model.size = 16
  config.steps, config.batch, config.log_every = 2, 8, 1
  config.optimizer.learning_rate = 0.1
  return config
