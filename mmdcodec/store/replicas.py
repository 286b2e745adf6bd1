"""Restores a large checkpoint on one replica, which sends it to the others.

Arrays that several groups of processes hold alike would be read by each of
them: a thousand hosts would read a thousand times what the store holds once.
One group reads them, and the network between devices does the rest.
"""

import math
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, NamedSharding

# Bytes of a state from which on this is faster.
SMALLEST = 256 << 20
_AXIS = "replica"
# Bytes that each device receives at once. Orbax would ask each process for its
# memory, and processes that differ in it would wait for one another for ever.
_AT_ONCE = 1 << 30


def mesh_of(abstract: Any) -> Mesh | None:
  """Returns the mesh of a state, with an axis of replicas in front.

  A replica is made of whole processes and holds all of the state.

  Args:
    abstract: tree of `jax.ShapeDtypeStruct` with shardings on one mesh.

  Returns:
    The mesh; None if there is one replica only, or the state is small.
  """
  leaves = jax.tree.leaves(abstract)
  size = sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
  if jax.process_count() == 1 or size < SMALLEST:
    return None
  if not all(isinstance(x.sharding, NamedSharding) for x in leaves):
    return None
  mesh = leaves[0].sharding.mesh
  first = mesh.axis_names[0]
  # They divide nothing but the batch.
  if any(first in _axes(x.sharding.spec) for x in leaves):
    return None
  grid = mesh.devices
  for count in range(len(grid), 1, -1):
    if len(grid) % count == 0:
      groups = grid.reshape(count, -1, *grid.shape[1:])
      owners = [{_process(d) for d in group.flat} for group in groups]
      if sum(map(len, owners)) == len(set().union(*owners)):
        types = (mesh.axis_types[0], *mesh.axis_types)
        return Mesh(groups, (_AXIS, *mesh.axis_names), axis_types=types)
  return None


def restore(folder: epath.Path, abstract: Any) -> Any:
  """Reads a state on the first replica, and sends it to the others.

  Args:
    folder: the folder of the state in a checkpoint.
    abstract: tree of `jax.ShapeDtypeStruct` with shardings.

  Returns:
    The state on the given shardings; None where `mesh_of` returns None. Zeros
    lose their sign, because sending is adding to zero.
  """
  if (mesh := mesh_of(abstract)) is None:
    return None
  # Orbax's handlers of arrays are global, but for those of a registry.
  handler = ocp.type_handlers.SingleReplicaArrayHandler(
    broadcast_memory_limit_bytes=_AT_ONCE
  )
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, handler)
  )
  arguments = jax.tree.map(
    lambda x: ocp.type_handlers.SingleReplicaArrayRestoreArgs(
      sharding=NamedSharding(mesh, x.sharding.spec),
      global_shape=x.shape,
      dtype=x.dtype,
    ),
    abstract,
  )
  with ocp.Checkpointer(
    ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
  ) as checkpointer:
    found = checkpointer.restore(
      folder,
      args=ocp.args.PyTreeRestore(item=abstract, restore_args=arguments),
    )
  # The same devices in the same order: nothing moves.
  return jax.tree.map(
    lambda x, wanted: jax.device_put(x.astype(wanted.dtype), wanted.sharding),
    found,
    abstract,
  )


def _process(device: jax.Device) -> int:
  return device.process_index


def _axes(spec: jax.sharding.PartitionSpec) -> set[str]:
  """Returns the mesh axes in a spec."""
  return {axis for part in spec for axis in np.atleast_1d(part) if axis}
