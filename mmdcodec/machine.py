"""What of the machine this process may use."""

import os


def cpus() -> int:
  """CPUs that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # Linux; containers have fewer than all
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
