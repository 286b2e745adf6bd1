"""A codec with one discriminator that compiles in seconds, and its steps."""

import functools

import jax
import numpy as np

from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.train import config_files
from mmdcodec.train import program as program_lib
from mmdcodec.train.task import make_task

WEIGHTS = {"waveform": 1.0, "adversarial": 2.0, "features": 3.0}

CODECS = {
  "seanet": (
    "--config=encodec_24khz:tiny",
    "--config.model.filters=2",
    "--config.model.lstm_layers=0",
    "--config.model.norm=none",
  ),
  "spectral": (
    "--config=spectral_24khz:tiny",
    "--config.quantizer_start=0",
    "--config.losses.stft.weight=0.0",
    "--config.losses.commitment.weight=1.0",
    "--config.adversarial.start=0",
    "--config.adversarial.warmup=0",
  ),
}


def configure(topology="seanet", **changes):
  """A codec and one discriminator that compile in seconds."""
  config = config_files.parse(
    [
      *CODECS[topology],
      "--config.data.seconds=0.1",
      "--config.losses.mel.weight=0.0",
    ]
  )
  config.model.ratios = (20,)
  for name, weight in WEIGHTS.items():
    config.losses[name].weight = weight
  config.adversarial.discriminators = (
    dict(name="multi_scale_stft", filters=2, windows=(64,)),
  )
  config.adversarial.optimizer.learning_rate = 3e-4
  config.balancer.on = False
  config.update_from_flattened_dict(changes)
  return config


def clips(seed, batch=4, samples=800):
  """Noise under a slow envelope; the last clip ends early."""
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((batch, samples, 1)).cumsum(1) / 30
  lengths = np.full(batch, samples, np.int32)
  lengths[-1] = samples // 2
  x *= np.arange(samples)[:, None] < lengths[:, None, None]
  return {"audio": x.astype(np.float32), "lengths": lengths}


@functools.cache
def started():
  """A state after the k-means of a first batch."""
  return run_steps(configure(), 1)[1]


def run_steps(config, steps, state=None):
  """Metrics of some steps, and the last state."""
  config = config.to_dict()
  task = make_task(config)
  mesh = mesh_lib.make_mesh({}, jax.devices()[:1])
  program = program_lib.make_program(task, config, mesh)
  rows = []
  with jax.set_mesh(mesh):
    state = state or program.init(jax.random.key(0))
    for step in range(steps):
      state, found = program.step(
        state, mesh_lib.place(clips(step), mesh), task.phase(int(state.step))
      )
      rows.append(jax.device_get(found))
  return rows, jax.device_get(state)


def judge_and_learn(task, state, x, y, step):
  """One step of the discriminators: state, losses, gradients, metrics."""
  *found, metrics, grads = task.adversary.judge(state.params, x, y, step)
  state, more = task.adversary.learn(
    state, grads, metrics["discriminator/loss"], step
  )
  return state, *found, metrics | more


def tree_close(found, expected, tolerance=1e-5):
  flat = lambda tree: np.concatenate(
    [np.ravel(leaf) for leaf in jax.tree.leaves(tree)]
  )
  found, expected = flat(found), flat(expected)
  error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
  assert error < tolerance, error
