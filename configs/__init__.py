"""Experiments: one short file each, importable as `mmdcodec.configs`."""
