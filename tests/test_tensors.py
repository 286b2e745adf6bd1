"""Files of weights: their rights, their types and their names."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest

from mmdcodec import bundle
from mmdcodec.convert import weights
from mmdcodec.errors import UserError
from mmdcodec.store import tensors


def packed(dtype, shape, size, name="t"):
  """A file with one array, which NumPy need not know."""
  entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
  header = json.dumps({name: entry}).encode()
  header += b" " * (-len(header) % 8)
  return struct.pack("<Q", len(header)) + header + bytes(range(size))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027])
def test_rights_are_those_of_other_new_files(tmp_path, umask):
  """Weights that only their owner could read, in a folder for all."""
  before = os.umask(umask)
  try:
    tensors.write(tmp_path / "a", {"t": np.ones(3)})
    bundle.save(tmp_path / "b", {}, {"t": np.ones(3)}, discriminators={})
  finally:
    os.umask(before)
  files = [tmp_path / "a", *(tmp_path / "b").iterdir()]
  assert len(files) == 4
  assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~umask}
  np.testing.assert_array_equal(tensors.read(tmp_path / "a", "")["t"], [1] * 3)


READERS = [
  lambda path: tensors.read(path, "get it again"),
  bundle._read_arrays,
  weights.read,
]


@pytest.mark.parametrize("read", READERS)
def test_types_are_named(tmp_path, read):
  path = tmp_path / "x.safetensors"
  for dtype, size in (("F8_E4M3", 4), ("F8_E5M2", 4), ("F8_E8M0", 4)):
    path.write_bytes(packed(dtype, [4], size))
    with pytest.raises(UserError, match=f"t is of type {dtype}; expected"):
      read(path)
  for dtype, size in (("F4", 2), ("F6_E2M3", 3), ("F3", 3)):
    path.write_bytes(packed(dtype, [4], size))
    with pytest.raises(UserError, match=r"x\.safetensors"):
      read(path)


@pytest.mark.parametrize("read", READERS)
def test_damage_and_pointers(tmp_path, read):
  path = tmp_path / "x.safetensors"
  path.write_bytes(packed("F32", [4], 16)[:-1])
  with pytest.raises(UserError, match="x.safetensors is damaged .* again"):
    read(path)
  path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
  with pytest.raises(UserError, match="pointer of git-lfs"):
    read(path)


def test_numbers_are_read(tmp_path):
  types = ["f2", "f4", "f8", "i1", "u1", "i8", "u8", "?", ml_dtypes.bfloat16]
  arrays = {str(i): np.ones((2, 3), t) for i, t in enumerate(types)}
  tensors.write(tmp_path / "x", arrays)
  found = tensors.read(tmp_path / "x", "")
  for name, array in arrays.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
  "names", [("a", "a/b"), ("a/b/c", "a"), ("a/b", "a/b/c/d"), ("a/b/c", "a/b")]
)
def test_an_array_within_another_is_refused(tmp_path, names):
  tensors.write(tmp_path / "x", dict.fromkeys(names, np.ones(2)))
  with pytest.raises(UserError, match="x: a.* also part of the name"):
    bundle._read_arrays(tmp_path / "x")
  assert tensors.nested("x", {"a/b": 1, "a/c": 2, "d": 3}) == {
    "a": {"b": 1, "c": 2},
    "d": 3,
  }
