#!/usr/bin/env bash
# Sets what XLA needs to know and runs a command:
#
#   flags.sh [NAME=VALUE ...] COMMAND ...
#
# All launch scripts end here. Give your own flags with the command, as in
# `-- LIBTPU_INIT_ARGS=--xla_... mmdcodec train ...` (XLA_FLAGS for GPUs).
#
# For TPUs there are none. Of those that are often recommended, these leave the
# compiled step as it is, because libtpu 0.0.52 has them on (a step of MusicGen
# with 4 blocks on v5e:4x4, fsdp = 16; feed-forward blocks on two such slices):
#
#   xla_tpu_enable_latency_hiding_scheduler
#   xla_tpu_enable_async_collective_fusion (also _fuse_all_gather and
#   _multiple_steps)
#   xla_tpu_overlap_compute_collective_tc, xla_enable_async_all_gather
#   xla_tpu_enable_data_parallel_all_reduce_opt,
#   xla_tpu_data_parallel_opt_different_sized_ops
#
# Others change it, and whether for the better only a TPU can tell. libtpu ends
# a process that gives it a flag it does not know; `mmdcodec compile` reads
# LIBTPU_INIT_ARGS too, so it shows that, and what a flag does to memory.

# By default JAX takes 75% of a GPU's memory; a training has it for itself.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}

exec env "$@"
