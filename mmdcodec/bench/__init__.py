"""Benchmarks behind `mmdcodec bench`: speed and memory beside their floors."""
