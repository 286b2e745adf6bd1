"""Devices.

mesh       processes and the device mesh
rules      which mesh axis divides which array
topology   a TPU slice to compile for, without one
"""
