"""A codec that has not been trained, for the tests of commands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec import bundle
from mmdcodec.models import codec as codec_model

# Presets of 8 kHz, 20 samples per frame and 4 codebooks of 32 that stream.
TOPOLOGIES = ("soundstream_tiny", "spectral_tiny")

# Runs a test with the `model` of each topology.
each_topology = pytest.mark.parametrize("model", TOPOLOGIES, indirect=True)


def write_random_codec(folder, seed, preset="soundstream_tiny", **changes):
  """A bundle of random numbers; nothing is compiled to make it."""
  config = codec_model.preset(preset, **changes)
  model = codec_model.from_config(config)
  x = jnp.zeros((1, model.stride * 2, model.channels))
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    if path[-1].key == "count" or leaf.dtype == bool:
      return np.ones(leaf.shape, leaf.dtype)
    if path[-1].key in ("magnitude", "variance"):  # of a spectral codec
      return np.exp(rng.normal(0, 0.3, leaf.shape)).astype(leaf.dtype)
    return rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype)

  variables = jax.tree_util.tree_map_with_path(fill, shapes)
  bundle.save(folder, {"kind": "codec", "model": config}, variables)
  return str(folder)
