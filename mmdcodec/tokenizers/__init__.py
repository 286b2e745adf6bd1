"""Models with weights that turn audio into codes, ready to use."""
