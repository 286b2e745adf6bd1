"""Processes and the device mesh.

One mesh with three named axes serves every model: `data` divides the batch,
`fsdp` the batch and the parameters, `model` only the parameters (tensor
parallelism). `rules.py` decides how each array is divided.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmdcodec.errors import UserError
from mmdcodec.parallel import peers
from mmdcodec.store import locks

AXES = ("data", "fsdp", "model")
# The axes that do not divide the computation of one example.
BATCH_AXES = ("data", "fsdp")


def start(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Connects the processes of a run; call it before any use of JAX.

  On Cloud TPU, GKE, SLURM and Open MPI, `jax.distributed` finds the arguments.
  Elsewhere, a process without arguments runs alone.

  Args:
    coordinator: `host:port` of process 0, for processes started by hand.
    num_processes: number of processes.
    process_id: index of this process, from 0.

  Raises:
    UserError: an argument is not possible, or only some are given.
  """
  if jax.distributed.is_initialized():
    return
  if not (coordinator is num_processes is process_id is None):
    peers.connect(coordinator, num_processes, process_id)
    return
  try:
    jax.distributed.initialize()
    peers.watch()
  except ValueError:
    # Not a cluster.
    pass
  except RuntimeError as error:
    # A program that used JAX before this call is a single process. Any other
    # failure must end the run: otherwise each host would train alone.
    if "must be called before" not in str(error):
      raise


@contextlib.contextmanager
def exclusive(folder: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a folder for all processes of a run; see `locks`.

  Raises:
    UserError: another run has the lock.
    OSError: the folder cannot be written to.
  """
  first = jax.process_index() == 0
  lock = locks.take(folder) if first else None
  taken = first and lock is not None
  if jax.process_count() > 1:
    taken = bool(multihost_utils.broadcast_one_to_all(np.int32(taken)))
  if not taken:
    raise UserError(locks.refusal(folder))
  try:
    yield
  finally:
    if lock is not None:
      lock.release()


def make_mesh(
  shape: Mapping[str, int] | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Builds the mesh.

  Args:
    shape: sizes of the axes `data`, `fsdp` and `model`. One of them may be -1,
      which stands for the remaining devices. The default is -1 for `data` and 1
      for the others.
    devices: devices to use; all by default.

  Returns:
    A mesh with axes `("data", "fsdp", "model")`, all of them Auto, because
    explicit axes do not support sharding propagation through lookups, scans and
    caches.

  Raises:
    UserError: the sizes do not fit the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = dict(shape or {})
  if unknown := set(shape) - set(AXES):
    raise UserError(
      f"mesh has no axis {sorted(unknown)}; its axes are {list(AXES)}."
    )
  sizes = [shape.get("data", -1), shape.get("fsdp", 1), shape.get("model", 1)]
  known = int(np.prod([s for s in sizes if s != -1]))
  if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
    sizes[sizes.index(-1)] = len(devices) // known
  if int(np.prod(sizes)) != len(devices) or min(sizes) < 1:
    raise UserError(
      f"a mesh of data x fsdp x model = {' x '.join(map(str, sizes))} does not"
      f" fit {len(devices)} devices; the product must be {len(devices)}, and"
      " at most one size may be -1 (the rest)."
    )
  if len(devices) == 1:
    grid = np.asarray(devices).reshape(sizes)
  else:
    grid = mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns a sharding that divides only the leading axis."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch(batch: int, mesh: Mesh) -> None:
  """Checks that every device and every process gets rows of its own.

  Raises:
    UserError: the mesh does not divide the global batch this way.
  """
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  if batch % parts:
    raise UserError(
      f"batch is {batch}, but the mesh divides it into {parts} parts (data x"
      " fsdp); make it a multiple of that."
    )
  places = batch_sharding(mesh).addressable_devices_indices_map((batch,))
  cuts = [index[0] for index in places.values() if index is not None]
  rows = {row for cut in cuts for row in range(batch)[cut]}
  if len(rows) * jax.process_count() != batch:
    raise UserError(
      f"the mesh gives {len(rows)} of {batch} rows to one of"
      f" {jax.process_count()} processes, but each must read rows of its own:"
      " make data x fsdp a multiple of the number of processes."
    )


def place(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
  """Makes one global batch from the rows that each process has read.

  Args:
    batch: tree of this process's arrays [local batch, ...], with
      `global batch / process count` rows (see `check_batch`).
    mesh: the target mesh.

  Returns:
    Global arrays, divided along their leading axis.
  """
  sharding, processes = batch_sharding(mesh), jax.process_count()
  return jax.tree.map(
    lambda value: jax.make_array_from_process_local_data(
      sharding, value, (value.shape[0] * processes, *value.shape[1:])
    ),
    batch,
  )
