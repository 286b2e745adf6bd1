"""Processes and the device mesh.

One mesh with three named axes serves every model: `data` (batch), `fsdp`
(batch, and parameters cut along it) and `model` (tensor parallel). What goes
where on it is said in `rules.py`.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmdcodec.errors import UserError

AXES = ("data", "fsdp", "model")
# A batch is cut over both axes that do not cut the computation of one example.
BATCH_AXES = ("data", "fsdp")


def start(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins this process to the others of the run; call it before any use of JAX.

  On Cloud TPU, GKE, SLURM and Open MPI the arguments are found by
  `jax.distributed`; a plain machine runs alone.

  Args:
    coordinator: `host:port` of process 0, for processes started by hand.
    num_processes: how many there are.
    process_id: which one this is, from 0.
  """
  if jax.distributed.is_initialized():
    return
  if coordinator is not None:
    jax.distributed.initialize(coordinator, num_processes, process_id)
    return
  try:
    jax.distributed.initialize()
  except ValueError:
    # No cluster here.
    pass
  except RuntimeError as error:
    # A program that has used JAX before it calls us is a single process. Any
    # other failure must end the run: each host would train alone.
    if "must be called before" not in str(error):
      raise


def make_mesh(
  shape: Mapping[str, int] | None = None, devices: list | None = None
) -> Mesh:
  """Builds the mesh.

  Args:
    shape: sizes of the axes `data`, `fsdp` and `model`; one of them may be -1
      and takes the devices that are left. An axis that is not named has size 1,
      `data` takes what is left.
    devices: those to use; all by default.

  Returns:
    A mesh with axes `("data", "fsdp", "model")`, every one of them Auto: the
    compiler propagates shardings through lookups, scans and caches, which
    explicit axes refuse.

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
  """Leading axis over the devices, everything else whole."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch(batch: int, mesh: Mesh) -> None:
  """Makes sure that every device, and every process, gets its own rows.

  Raises:
    UserError: the mesh does not cut the global batch so.
  """
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  if batch % parts:
    raise UserError(
      f"batch is {batch}, but the mesh cuts it into {parts} parts (data x"
      " fsdp); make it a multiple."
    )
  places = batch_sharding(mesh).addressable_devices_indices_map((batch,))
  rows = {row for (cut,) in places.values() for row in range(batch)[cut]}
  if len(rows) * jax.process_count() != batch:
    raise UserError(
      f"the mesh gives {len(rows)} of {batch} rows to one of"
      f" {jax.process_count()} processes: each must read rows of its own, so"
      " make data x fsdp a multiple of the number of processes."
    )


def place(batch: dict, mesh: Mesh) -> dict:
  """Makes one global batch of what each process has read.

  Args:
    batch: arrays [local batch, ...] of this process, which reads
      `global batch / process count` rows (see `check_batch`).
    mesh: where it goes.

  Returns:
    Global arrays, cut along their leading axis.
  """
  sharding, processes = batch_sharding(mesh), jax.process_count()
  return {
    name: jax.make_array_from_process_local_data(
      sharding, value, (value.shape[0] * processes, *value.shape[1:])
    )
    for name, value in batch.items()
  }
