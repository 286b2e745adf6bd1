"""Which process of a run is the slowest."""

import os
import pathlib
import socket
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.store import metrics
from mmdcodec.train import hosts, speed

# Process 1 reads for 200 ms in each step, the other for none.
RUN = """
import sys, time
import jax
from toy_task import Same, Toy, toy_config
from mmdcodec.parallel import mesh
from mmdcodec.train import loop, opening
port, index, workdir = sys.argv[1:]
mesh.start(f"localhost:{port}", 2, int(index))
class Late(Same):
  def __next__(self):
    time.sleep(0.2 * jax.process_index())
    batch = super().__next__()
    return {"audio": batch["audio"][:4]}
class Task(Toy):
  def batches(self, *, seed):
    return Late()
opening.make_task = Task
loop.train(toy_config(steps=10, eval_every=10, save_every=10), workdir)
"""


def test_numbers_of_processes(monkeypatch):
  """Catches rows of the wrong process, and memory of one process alone."""
  monkeypatch.setattr(
    speed, "memory", lambda: {"hbm_gib": 2.0, "hbm_peak_gib": 3.0}
  )
  clock = types.SimpleNamespace(host_seconds=10.0)
  mesh = mesh_lib.make_mesh({"data": 4, "fsdp": 2})
  measure = hosts.Hosts(mesh, clock, step=5)
  clock.host_seconds = 11.0
  with jax.set_mesh(mesh):
    gathered = measure.gather(9)
  assert gathered.sharding.is_fully_replicated
  np.testing.assert_array_equal(gathered, [[0.25, 2, 3]] * 8)
  # Of three processes, the first with two devices.
  measure._rows = [0, 2, 3]
  rows = np.array([[0.1, 5, 6], [0.1, 5, 6], [0.3, 1, 9], [0.2, 2, 2]])
  found = measure.values(rows)
  np.testing.assert_array_equal(found.pop("host_seconds"), [0.1, 0.3, 0.2])
  assert found == {"slowest_host": 1, "hbm_gib": 5, "hbm_peak_gib": 9}
  assert measure.values(rows[:, :1]).keys() == {"host_seconds", "slowest_host"}


@pytest.mark.slow
def test_the_slower_of_two_is_named(tmp_path):
  """Catches a process that is blamed for waiting for the other."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  flags = "--xla_force_host_platform_device_count=1"
  paths = f"{pathlib.Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", RUN, str(port), str(i), str(tmp_path)],
      env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": paths},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
  assert "slowest host " in outputs[0]
  rows = [r for r in metrics.read(tmp_path) if "train/slowest_host" in r]
  assert len(rows) == 10
  # The first steps compile, and another work may keep a process waiting.
  assert np.median([row["train/slowest_host"] for row in rows[2:]]) == 1
  late = [row["train/host_seconds/1"] for row in rows[2:]]
  other = [row["train/host_seconds/0"] for row in rows[2:]]
  assert min(late) >= 0.2 and np.median(late) - np.median(other) > 0.1
