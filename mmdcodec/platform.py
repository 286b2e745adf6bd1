"""The platform of a program: its device, its CPUs, sizes to compile for."""

import os

import jax


def cpus() -> int:
  """Number of CPUs that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # Linux; fewer than all in a container
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def traced_for() -> str:
  """Platform of the program being traced: "cpu", "gpu" or "tpu".

  It is the platform of the current mesh (also of a TPU topology for which a CPU
  compiles), or else JAX's default. Lowering for another platform without a mesh
  (`jax.default_device`, `jax.export`) goes unnoticed: results are the same, but
  slower. Code that cannot run on the other platform, such as Pallas kernels,
  needs `jax.lax.platform_dependent`.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def bucket(size: int) -> int:
  """The next larger of four sizes per octave: 1..8, 10, 12, 14, 16, 20, ...

  Arrays padded to these sizes need few compiled programs, and at most a fifth
  of the work is padding.
  """
  if size <= 8:
    return max(size, 1)
  unit = 1 << ((size - 1).bit_length() - 3)
  return -(-size // unit) * unit
