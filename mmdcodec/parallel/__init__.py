"""Parallelism over devices and processes.

agreement  checks that all processes see the same files
chips      published figures of TPUs and GPUs: memory, peak, bandwidth
flops      counts the matrix products and convolutions of a program
mapped     reaches over the devices inside of shard_map and pmap
mesh       starts processes and builds the device mesh
peers      connects processes, and ends them if one is gone
roll       what processes tell one another, and which of them is gone
rules      assigns array axes to mesh axes
shares     divides independent work over the processes
topology   devices of a TPU slice that is not there, to compile for

analysis says what a compiler made of a program, and collectives what it sends.
"""
