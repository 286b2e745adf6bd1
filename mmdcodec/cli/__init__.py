"""The `mmdcodec` command: one file per verb."""
