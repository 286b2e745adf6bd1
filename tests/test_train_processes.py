"""Runs that are killed or stopped and go on, and runs of several processes."""

import random
import re
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
from training_runs import (
  assert_same_end,
  command,
  environment,
  finish,
  run_until,
)

from mmdcodec.store import metrics
from mmdcodec.store.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

# Up to what relative difference metrics of a step are the same.
LIMITS = {"loss": 1e-4, "discriminator/gradient_norm": 1e-3}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, dataset):
  """A run on one device from start to end."""
  workdir = tmp_path_factory.mktemp("uninterrupted")
  finish(workdir, dataset)
  return workdir


def test_a_run_ends_as_if_nothing_had_stopped_it(
  tmp_path, dataset, uninterrupted
):
  """Stopped once and killed once.

  Catches any state that a checkpoint leaves out, repeated data, and a SIGTERM
  that loses steps, or ends with a code of success.
  """
  code, output = run_until(7, signal.SIGTERM, tmp_path, dataset)
  assert code == 75, output
  checkpoints = Checkpoints(tmp_path, read_only=True)
  saved = checkpoints.latest
  checkpoints.close()
  # Saved where it stopped, not only at a multiple of save_every.
  assert saved >= 7 and f"saved at step {saved}" in output
  # A save waits for the one before it: after step 15, that of step 10 is there.
  step = random.randrange(16, 18)
  print(f"killed after step {step}")
  # The part between is traced. (Never in the process of the tests: the tracer
  # crashes once the TPU compiler is loaded beside it.)
  trace = ["--config.profile.start=1", "--config.profile.steps=2"]
  code, output = run_until(step, signal.SIGKILL, tmp_path, dataset, *trace)
  assert code == -signal.SIGKILL, output
  assert f"resumed {tmp_path} at step {saved}" in output
  (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
  # Such as "$loop.py:190 train", which `train.profiling` leaves out.
  assert not re.search(rb"\$\w+\.py:\d+ ", trace.read_bytes())
  assert "resumed" in finish(tmp_path, dataset)
  assert_same_end(tmp_path, uninterrupted)


def start_two(workdir, dataset):
  """Two processes of one run, with a device each."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  return [
    subprocess.Popen(
      command(
        workdir,
        dataset,
        f"--coordinator=localhost:{port}",
        "--num-processes=2",
        f"--process-id={i}",
      ),
      env=environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]


def test_two_processes(tmp_path, dataset, uninterrupted):
  """Catches processes that read the same rows, or sum gradients wrongly.

  And a SIGTERM to one process that leaves the other waiting. The program
  `soak/process_counts.py` compares more processes, with another codec.
  """
  processes, compared = start_two(tmp_path, dataset), 5
  deadline = time.time() + 600
  while time.time() < deadline:
    assert all(p.poll() is None for p in processes)
    if any(row["step"] > compared for row in metrics.read(tmp_path)):
      break
    time.sleep(0.05)
  processes[1].send_signal(signal.SIGTERM)
  outputs = [process.communicate(timeout=600)[0] for process in processes]
  assert [p.returncode for p in processes] == [75, 75], "\n".join(outputs)
  checkpoints = Checkpoints(tmp_path, read_only=True)
  assert f"saved at step {checkpoints.latest}" in outputs[0]
  checkpoints.close()
  one, two = (
    {row["step"]: row for row in metrics.read(run) if "train/loss" in row}
    for run in (uninterrupted, tmp_path)
  )
  for step in range(1, compared + 1):  # rounding grows tenfold every few
    for name, rtol in LIMITS.items():
      # None in steps in which the discriminators do not learn.
      value, other = (
        np.float64(rows[step][f"train/{name}"]) for rows in (one, two)
      )
      np.testing.assert_allclose(value, other, rtol=rtol)
