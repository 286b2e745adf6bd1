"""Processes and the device mesh.

One mesh with three named axes serves every model: `data` divides the batch,
`fsdp` the batch and the parameters, `model` only the parameters (tensor
parallelism). `rules.py` decides how each array is divided.

Several TPU slices are one mesh, too: links between slices are slow, so only
`data` reaches over them, and what crosses them in a step is one sum of the
gradients.
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
# The attribute of a TPU that tells its slice.
_SLICE = "slice_index"


def start(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  timeout: int | None = None,
) -> None:
  """Connects the processes of a run; call it before any use of JAX.

  On Cloud TPU, GKE, SLURM and Open MPI, `jax.distributed` finds the arguments.
  Elsewhere, a process without arguments runs alone, as does one of SLURM
  or Open MPI with `num_processes=1` and no other argument.

  Args:
    coordinator: `host:port` of process 0, for processes started by hand.
    num_processes: number of processes.
    process_id: index of this process, from 0.
    timeout: seconds in which all processes must have been started; 300 by
      default.

  Raises:
    UserError: an argument is not possible, or only some are given.
  """
  if jax.distributed.is_initialized():
    return
  if num_processes == 1 and coordinator is process_id is None:
    return
  if not (coordinator is num_processes is process_id is None):
    peers.connect(coordinator, num_processes, process_id, timeout)
    return
  try:
    peers.detect(timeout)
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
      for the others. `dcn_data`, a divisor of `data`, is the number of slices
      that it reaches over; -1, the default, finds the TPU slices. On other
      devices, each process counts as a slice, if it is above 1.
    devices: devices to use; all by default.

  Returns:
    A mesh with axes `("data", "fsdp", "model")`, all of them Auto, because
    explicit axes do not support sharding propagation through lookups, scans and
    caches.

  Raises:
    UserError: the sizes do not fit the number of devices or of slices.
  """
  devices = jax.devices() if devices is None else devices
  shape = dict(shape or {})
  wanted = shape.pop("dcn_data", -1)
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
  grid = _grid(sizes, _slices(devices, wanted), devices)
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _slices(devices: Sequence[jax.Device], wanted: int) -> int:
  """The number of slices that the devices are in, if it is as wanted."""
  on_tpus = devices[0].platform == "tpu"
  if not on_tpus and wanted in (-1, 1):
    return 1
  place = _SLICE if on_tpus else "process_index"
  found = len({getattr(device, place, 0) for device in devices})
  if wanted not in (-1, found):
    kind = "TPU slices" if on_tpus else "processes"
    raise UserError(
      f"mesh.dcn_data is {wanted}, but the devices are in {found} {kind}; set"
      f" it to {found}, or to -1 to have the slices found."
    )
  return found


def _grid(
  sizes: Sequence[int], slices: int, devices: Sequence[jax.Device]
) -> np.ndarray:
  """Devices in the shape of the mesh, near ones along its last axes."""
  if len(devices) == 1:
    return np.asarray(devices).reshape(sizes)
  if slices == 1:
    return mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  data, *others = sizes
  if data % slices:
    raise UserError(
      f"mesh.data is {data}, but the devices are in {slices} slices, and only"
      f" data reaches over them: make it a multiple of {slices}."
    )
  return mesh_utils.create_hybrid_device_mesh(
    (data // slices, *others),
    (slices, *(1 for _ in others)),
    devices,
    process_is_granule=devices[0].platform != "tpu",
    allow_split_physical_axes=True,
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns a sharding that divides only the leading axis."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch(batch: int, mesh: Mesh, accumulate: int = 1) -> None:
  """Checks that every device and every process gets rows of its own.

  Args:
    batch: rows of the global batch.
    mesh: the mesh, also one of devices that are not there.
    accumulate: parts of the batch that are computed one after the other.

  Raises:
    UserError: the mesh does not divide the global batch, or its parts, this
      way.
  """
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  if batch % parts:
    raise UserError(
      f"batch is {batch}, but the mesh divides it into {parts} parts (data x"
      " fsdp); make it a multiple of that."
    )
  if batch % (parts * accumulate):
    raise UserError(
      f"batch is {batch} and accumulate {accumulate}, so that at a time"
      f" {batch // accumulate} rows are for {parts} devices (data x fsdp), and"
      " some get none or fewer than others; make batch a multiple of"
      f" {parts * accumulate}."
    )
  cuts: dict[int, set] = {}
  places: Mapping[Any, Any] = batch_sharding(mesh).devices_indices_map((batch,))
  for device, (rows,) in places.items():
    cuts.setdefault(device.process_index, set()).add(rows.indices(batch)[:2])
  for mine in cuts.values():
    count = sum(stop - start for start, stop in mine)
    if count * len(cuts) != batch:
      raise UserError(
        f"the mesh gives {count} of {batch} rows to one of {len(cuts)}"
        " processes, but each must read rows of its own: make data x fsdp a"
        " multiple of the number of processes."
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


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
  """Places an array that every process has whole; each keeps its own part.

  `jax.device_put` would first compare the copies of all processes, and for that
  gather them on every device: weights of gigabytes do not fit.
  """
  return jax.make_array_from_callback(
    array.shape, sharding, lambda index: array[index]
  )
