"""Flags with which XLA compiles for CPUs in half the time.

They choose its older way to make loops, on which no result may depend but for
rounding, and keep each program in one piece: pieces compile in parallel, which
takes more time in all. A version of XLA that does not know a flag ends the
process; so does the TPU compiler, which reads the same variable and knows none
of the CPU's.
"""

import os

import jaxlib

# Those with which the tests were started; conftest.py adds to the variable.
GIVEN = os.environ.get("XLA_FLAGS", "")
FLAGS = ""
# Of later versions nothing was tried.
if jaxlib.version.__version_info__ < (0, 11):
  FLAGS = (
    "--xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
  )
# For subprocesses that train or compute on one device.
ONE_DEVICE = f"{GIVEN} --xla_force_host_platform_device_count=1 {FLAGS}"
