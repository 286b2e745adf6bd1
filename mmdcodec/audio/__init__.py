"""Audio: files, spectral transforms, built-in music."""
