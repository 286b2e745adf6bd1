"""Checkpoints that one replica reads for all."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from peer_processes import free_port

from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.store import replicas


def abstract(shape, spec):
  mesh = mesh_lib.make_mesh(shape)
  sharding = NamedSharding(mesh, spec)
  return [jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=sharding)]


@pytest.mark.usefixtures("all_devices")
@pytest.mark.parametrize(
  "fsdp, spec, process, count",
  [
    (1, P(), lambda i: i // 4, 2),
    (2, P("fsdp"), lambda i: i // 2, 4),
    (2, P("fsdp"), lambda i: i // 4, 2),
    (4, P("fsdp"), lambda i: i // 2, 2),
    # One replica, or each process has a part of every one.
    (8, P("fsdp"), lambda i: i // 2, None),
    (1, P(), lambda i: i % 2, None),
    # Not replicated.
    (1, P("data"), lambda i: i // 4, None),
  ],
)
def test_groups_of_processes(monkeypatch, fsdp, spec, process, count):
  """Catches a replica that a process shares with another one."""
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(replicas, "_process", lambda device: process(device.id))
  state = abstract(dict(data=-1, fsdp=fsdp), spec)
  assert replicas.mesh_of(state) is None  # It is small.
  monkeypatch.setattr(replicas, "SMALLEST", 256)
  mesh = replicas.mesh_of(state)
  if count is None:
    assert mesh is None
    return
  assert dict(mesh.shape) == dict(
    replica=count, data=8 // fsdp // count, fsdp=fsdp, model=1
  )
  assert (mesh.devices.flat == state[0].sharding.mesh.devices.flat).all()
  monkeypatch.setattr(jax, "process_count", lambda: 1)
  assert replicas.mesh_of(state) is None


def test_processes_with_different_memory(monkeypatch):
  """Catches parts that each process chooses by the memory that it has free."""

  class Stop(Exception):
    """The handler has been made."""

  def handler(broadcast_memory_limit_bytes=None):
    raise Stop(broadcast_memory_limit_bytes)

  monkeypatch.setattr(replicas, "mesh_of", lambda abstract: "mesh")
  monkeypatch.setattr(
    replicas.ocp.type_handlers, "SingleReplicaArrayHandler", handler
  )
  with pytest.raises(Stop, match="^1073741824$"):
    replicas.restore("folder", [])


RESTORE = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.store import checkpoints, replicas
from mmdcodec.train.state import TrainState

replicas.SMALLEST = 0
mesh_lib.start(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
mesh = mesh_lib.make_mesh(dict(data=2, fsdp=2))

def refuse(*given, **named):
  raise AssertionError("copies of both processes on each device")

# What every process has read needs no other process.
whole = np.arange(24.0).reshape(4, 6)
multihost_utils.assert_equal, kept = refuse, multihost_utils.assert_equal
placed = mesh_lib.put(whole, NamedSharding(mesh, P("data", "fsdp")))
multihost_utils.assert_equal = kept
assert placed.shape == whole.shape
for shard in placed.addressable_shards:
  np.testing.assert_array_equal(shard.data, whole[shard.index])

def make():
  params = {
    "kernel": jax.random.normal(jax.random.key(0), (1 << 21,)),
    "small": jnp.arange(8, dtype=jnp.bfloat16) - 4,
    "on": jnp.arange(4) % 2 == 0,
    "nan": jnp.array([jnp.nan, jnp.inf]),
  }
  return TrainState(
    step=jnp.int32(3), params=params, collections={}, extra=None,
    opt_state=(params["kernel"] + 1,), ema=None, skipped=jnp.int32(0),
    skipped_in_a_row=jnp.int32(0),
  )

shapes = jax.eval_shape(make)
layout = jax.tree.map(
  lambda x: NamedSharding(mesh, P("fsdp") if x.size > 9 else P()), shapes
)
abstract = jax.tree.map(
  lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
  shapes, layout,
)
state = jax.jit(make, out_shardings=layout)()
opened = checkpoints.Checkpoints(sys.argv[3])
opened.save(3, state, {"index": 5})
opened.wait()
bytes_read = lambda: int(pathlib.Path("/proc/self/io").read_text().split()[1])
before = bytes_read()
found, position = opened.restore(abstract, 3)
print(bytes_read() - before >> 20, flush=True)
opened.close()
assert position == {"index": 5}
for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(state)):
  assert one.dtype == other.dtype and one.sharding == other.sharding
  for a, b in zip(one.addressable_shards, other.addressable_shards):
    np.testing.assert_array_equal(a.data, b.data)
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
  """Catches a second process that reads, and values that are added up.

  And weights that every process has read, but that are gathered to be placed.
  """
  port = free_port()
  flags = "--xla_force_host_platform_device_count=2"
  environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", RESTORE, str(port), str(i), str(tmp_path)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  outputs = [process.communicate(timeout=300) for process in processes]
  assert [p.returncode for p in processes] == [0, 0], outputs
  # Two arrays of 8 MiB, compressed.
  first, second = (int(out.split()[-1]) for out, _ in outputs)
  assert first > 10 and second < 2
