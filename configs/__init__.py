"""Training configs, one short file each, importable as `mmdcodec.configs`."""
