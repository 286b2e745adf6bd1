"""What a program runs on: the kind of device, and the CPUs of this process."""

import os

import jax


def cpus() -> int:
  """CPUs that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # Linux; containers have fewer than all
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def traced_for() -> str:
  """Where what is traced now will run: "cpu", "gpu" or "tpu".

  The platform is that of the mesh in use (a mesh of described TPUs too, for
  which a CPU compiles), else JAX's default one. What is lowered for another
  platform without a mesh (`jax.default_device`, `jax.export`) is not told
  apart: it gives the same results, more slowly. Where forms can't run on the
  other platform, `jax.lax.platform_dependent` is needed, as for Pallas kernels.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform
