"""Platform details: CPUs, the target of a trace, sizes to compile for."""

import os

import jax


def cpus() -> int:
  """Returns the number of CPUs that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # Linux; fewer than all in a container
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def traced_for() -> str:
  """Returns the platform being traced for: "cpu", "gpu" or "tpu".

  This is the platform of the current mesh (which may be a TPU topology that a
  CPU compiles for), or else JAX's default. Lowering for another platform
  without a mesh (`jax.default_device`, `jax.export`) is not detected: the
  program is correct but slower. Code that runs on one platform only, such as
  Pallas kernels, needs `jax.lax.platform_dependent`.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def bucket(size: int) -> int:
  """Rounds up to one of four sizes per octave: 1..8, 10, 12, 14, 16, 20, ...

  Padding arrays to these sizes keeps the number of compiled programs low, and
  at most a fifth of the work is padding.
  """
  if size <= 8:
    return max(size, 1)
  unit = 1 << ((size - 1).bit_length() - 3)
  return -(-size // unit) * unit
