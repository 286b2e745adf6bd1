"""Trainings in processes of their own, and whether two of them ended alike."""

import json
import os
import subprocess
import sys
import time

import fast_xla
import jax
import numpy as np

from mmdcodec.store import metrics, paths
from mmdcodec.store.checkpoints import Checkpoints

# A codec with discriminators and balancer: all that a state can hold. Rate and
# weights are those of the recipe that is not tiny.
CONFIG = (
  "--config=encodec_24khz:tiny",
  "--config.adversarial.optimizer.learning_rate=3e-4",
  "--config.losses.adversarial.weight=3.0",
  "--config.losses.features.weight=3.0",
)

# The same with discriminators and quantizer from the first step on.
SPECTRAL = (
  "--config=spectral_24khz:tiny",
  "--config.quantizer_start=0",
  "--config.adversarial.start=0",
  "--config.adversarial.warmup=0",
  # The gradient of a logarithm near silence multiplies rounding.
  "--config.losses.stft.weight=0.0",
)

STEPS = 20


def command(workdir, dataset, *more, config=SPECTRAL):
  return [
    sys.executable, "-m", "mmdcodec", "train", *config,
    f"--workdir={workdir}", f"--config.data.train={dataset}",
    f"--config.data.valid={dataset}", f"--config.steps={STEPS}",
    "--config.log_every=1", "--config.save_every=5", "--config.eval_every=5",
    # Two programs, of which a resumed run must take the right one.
    "--config.adversarial.start=3", *more,
  ]  # fmt: skip


def environment():
  """Of a process with one device.

  Its programs are those of users, but in tests they compile fast.
  """
  flags = f"{fast_xla.GIVEN} --xla_force_host_platform_device_count=1"
  if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS"):
    flags += f" {fast_xla.FLAGS}"
  return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def finish(workdir, dataset, *more, config=SPECTRAL):
  done = subprocess.run(
    command(workdir, dataset, *more, config=config),
    env=environment(),
    capture_output=True,
    text=True,
    timeout=600,
  )
  output = done.stdout + done.stderr
  assert done.returncode == 0, f"exit code {done.returncode}\n{output}"
  return done.stdout


def run_until(step, signum, workdir, dataset, *more, config=SPECTRAL):
  """Starts a run, sends the signal once it has logged the step."""
  process = subprocess.Popen(
    command(workdir, dataset, *more, config=config),
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  deadline = time.time() + 600
  while time.time() < deadline and process.poll() is None:
    if any(row["step"] >= step for row in metrics.read(workdir)):
      process.send_signal(signum)
      break
    time.sleep(0.01)
  output, _ = process.communicate(timeout=600)
  return process.returncode, output


def final(workdir):
  """Everything of the last checkpoint: flat arrays, and the data's position."""
  checkpoints = Checkpoints(workdir, read_only=True)
  try:
    assert checkpoints.latest == STEPS
    state = checkpoints.restore_arrays()
  finally:
    checkpoints.close()
  folder = paths.of(workdir) / "checkpoints" / str(STEPS)
  (position,) = (folder / "data").glob("metadata")
  flat = jax.tree_util.tree_flatten_with_path(state)[0]
  arrays = {jax.tree_util.keystr(path): value for path, value in flat}
  return arrays, json.loads(position.read_text())


# What the state of a run with discriminators and balancer holds.
KINDS = ("params", "codebook", "opt_state", "ema", "adversary", "balancer")


def assert_same_end(one, other, kinds=KINDS):
  (arrays, position), (others, other_position) = final(one), final(other)
  assert arrays.keys() == others.keys()
  for kind in kinds:
    assert any(kind in name for name in arrays), kind
  for name, value in arrays.items():
    np.testing.assert_array_equal(value, others[name], err_msg=name)
  assert position == other_position
  losses = [
    {r["step"]: r["train/loss"] for r in metrics.read(w) if "train/loss" in r}
    for w in (one, other)
  ]
  assert losses[0] == losses[1]
  assert sorted(losses[0]) == list(range(1, STEPS + 1))
