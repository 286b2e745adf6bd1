"""Parameters in 8 bits: files, and what reads them.

Catches: scales along the wrong axis, rows of zeros that become NaN, parameters
of parts that are left as they are, statistics that lose digits, values that
change when they are stored again, and scales without their array.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from random_music import random_music

from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.store import scaled, tensors


def test_rows_are_near_what_they_were():
  """Each within half a step of its own row, however different rows are."""
  rng = np.random.default_rng(0)
  sizes = 10.0 ** rng.uniform(-6, 3, (3, 40, 1))
  array = rng.normal(0, sizes, (3, 40, 64)).astype(np.float32)
  array[1, 7] = 0
  values, scale = scaled.pack(array)
  assert values.dtype == np.int8 and scale.shape == (3, 40, 1)
  found = scaled.unpack({"x": values, "x.int8_scale": scale})["x"]
  # A step is 1/127 of the largest, which the scale's own rounding may cut.
  most = np.abs(array).max(-1, keepdims=True) / 127
  assert (np.abs(found - array) <= 0.76 * most).all()
  assert (found[1, 7] == 0).all() and found.dtype == np.float32
  noise = np.sqrt(np.mean((found - array) ** 2, -1) / np.mean(sizes**2, -1))
  assert 0.003 < np.median(noise) < 0.01
  again = scaled.pack(found)
  np.testing.assert_array_equal(again[0], values)
  np.testing.assert_array_equal(again[1], scale)


def test_only_parameters_are_packed(tmp_path):
  """Those of parts too; codebooks keep their digits.

  Vectors and the codec's encoder, on which codes depend, have 16 bits.
  """
  config, variables = random_music(tmp_path / "music")
  bundle.save(tmp_path / "exact", config, variables)
  bundle.save(tmp_path / "packed", config, bundle.stored_as("int8", variables))
  read = lambda name: traverse_util.flatten_dict(
    bundle.read(tmp_path / name).variables, sep="/"
  )
  exact, packed = read("exact"), read("packed")
  assert {*exact} == {*packed}
  stored = safetensors.numpy.load_file(tmp_path / "packed/model.safetensors")
  for name, array in exact.items():
    inside = "params/" in name
    if inside and array.ndim > 1 and "codec/params/encoder" not in name:
      assert stored[name].dtype == np.int8
      step = np.abs(array).max(-1, keepdims=True) / 127
      assert (np.abs(packed[name] - array) <= 0.76 * step).all(), name
    elif inside:
      np.testing.assert_allclose(
        packed[name].astype(np.float32), array, rtol=2**-8, err_msg=name
      )
    else:
      np.testing.assert_array_equal(packed[name], array, err_msg=name)
  for words in ("codec/codebook", "codec/params/encoder"):
    assert any(words in name for name in exact)
  size = lambda name: (tmp_path / name / "model.safetensors").stat().st_size
  assert size("packed") < 0.5 * size("exact")


def test_scales_without_their_array_are_damage(tmp_path):
  path = tmp_path / "a.safetensors"
  scale = np.ones((4, 1), jnp.bfloat16)
  for arrays in (
    {},
    {"x": np.ones((3, 5), np.int8)},
    {"x": np.ones((4, 5), np.float32)},
    {"x": np.ones(4, np.int8)},
  ):
    path.unlink(missing_ok=True)
    tensors.write(path, {**arrays, "x.int8_scale": scale})
    with pytest.raises(UserError, match=r"x\.int8_scale has no array x.*; ask"):
      tensors.read(path, "ask again")
