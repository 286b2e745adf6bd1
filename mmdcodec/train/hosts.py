"""Which process of a run is the slowest.

All processes take as long for a step, because they wait for one another. What
differs is how much of that time each one needs itself, to read its data and to
log. Whoever needs about a whole step keeps all waiting. (A device that is
slower than others does not show here.)
"""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mmdcodec.train import speed
from mmdcodec.train.goodput import Goodput


class Hosts:
  """Exchanges a few numbers between processes, without waiting for them."""

  def __init__(self, mesh: jax.sharding.Mesh, goodput: Goodput, step: int):
    """Starts to measure.

    Args:
      mesh: mesh of the run.
      goodput: the clock of this process.
      step: step at which the run starts or resumes.
    """
    self._goodput, self._step, self._time = goodput, step, goodput.host_seconds
    # A device of each process; all of one process hold the same row.
    owners = [device.process_index for device in mesh.devices.flat]
    self._rows = [owners.index(i) for i in range(jax.process_count())]
    self._count = len(owners)
    self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    self._gather = jax.jit(
      lambda rows: rows, out_shardings=NamedSharding(mesh, PartitionSpec())
    )

  def gather(self, step: int) -> jax.Array:
    """Gives the devices the numbers of this process to pass on.

    All processes must call this at the same steps.

    Args:
      step: number of updates done.

    Returns:
      What `values` takes once the device has come that far.
    """
    now = self._goodput.host_seconds
    own = (now - self._time) / max(step - self._step, 1)
    self._step, self._time = step, now
    row = np.array([[own, *speed.memory().values()]], np.float32)
    return self._gather(
      jax.make_array_from_callback(
        (self._count, row.shape[1]), self._split, lambda index: row
      )
    )

  def values(self, gathered: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the measures of all processes by name.

    Args:
      gathered: what `gather` returned, on the host.
    """
    own, *memory = gathered[self._rows].T
    names = speed.MEMORY if memory else {}
    return {
      "host_seconds": own,
      "slowest_host": np.argmax(own),
      **{name: each.max() for name, each in zip(names, memory, strict=True)},
    }
