"""Parallelism over devices and processes.

mesh       starts processes and builds the device mesh
peers      connects processes, and ends them if one is gone
rules      assigns array axes to mesh axes
topology   compiles for a TPU slice without having one
"""
