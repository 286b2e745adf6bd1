#!/usr/bin/env bash
# Sets what XLA needs to know and runs a command:
#
#   flags.sh [NAME=VALUE ...] COMMAND ...
#
# All launch scripts end here. Give your own flags with the command, as in
# `-- LIBTPU_INIT_ARGS=--xla_... mmdcodec train ...` (XLA_FLAGS for GPUs).
#
# For TPUs none is set, because libtpu 0.0.52 has those on that are often
# recommended: with them the compiled step is the same (MusicGen with 4 blocks
# on v5e:4x4, fsdp = 16; feed-forward blocks on one and two such slices):
#
#   xla_tpu_enable_latency_hiding_scheduler
#   xla_tpu_enable_async_collective_fusion (also _fuse_all_gather and
#   _multiple_steps)
#   xla_tpu_overlap_compute_collective_tc, xla_enable_async_all_gather
#   xla_tpu_enable_data_parallel_all_reduce_opt,
#   xla_tpu_data_parallel_opt_different_sized_ops
#   xla_tpu_assign_all_reduce_scatter_layout,
#   xla_tpu_use_minor_sharding_for_major_trivial_input
#
# Try LIBTPU_INIT_ARGS=--xla_tpu_scoped_vmem_limit_kib=98304 on v5e. Fusions may
# then keep more in the chip's fast memory: by the compiler's analysis, a step
# of musiclm_semantic on v5e:4x4 moves 36.4 GiB instead of 47.7 through the
# memory, and needs no more of it. It is not set because no TPU has timed it.
#
# libtpu ends a process that gives it a flag it does not know. As `mmdcodec
# compile` reads the variable too, it shows that, and what a flag does to
# memory.

# By default JAX takes 75% of a GPU's memory; a training has it for itself.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}

exec env "$@"
