"""Tests run on the CPU, split into eight simulated devices."""

import os

# Before the first import of jax: a TPU library that is only there to compile
# ahead of time would otherwise be asked for chips.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
