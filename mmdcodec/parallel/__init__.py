"""Parallelism over devices and processes.

chips      published figures of TPUs and GPUs: memory, peak, bandwidth
mapped     reaches over the devices inside of shard_map and pmap
mesh       starts processes and builds the device mesh
peers      connects processes, and ends them if one is gone
rules      assigns array axes to mesh axes
topology   compiles for a TPU slice without having one
"""
