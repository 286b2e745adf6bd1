"""Files written by any number of devices and any batch.

Catches: codes, and so bytes, that depend on how many clips were coded together,
or on how many devices coded them.
"""

import io

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from random_codec import each_topology

import mmdcodec
from mmdcodec import bitstream


@each_topology
def test_the_same_file_of_1_and_8_devices_and_clips(model):
  """A file that only the machine that wrote it gets right."""
  codec = mmdcodec.load(model)
  rng = np.random.default_rng(0)
  samples = 1600
  x = 0.3 * rng.standard_normal((8, samples, 1)).astype(np.float32)

  def file_of(codes):
    stream = bitstream.Stream(
      codes=np.asarray(codes),
      samples=samples,
      rate=codec.rate,
      channels=1,
      codebook_size=codec.model.codebook_size,
      stride=codec.model.stride,
      model=codec.hash,
    )
    return bitstream.to_bytes(stream, coding="conditional")

  alone = [file_of(codec.encode(clip)[0]) for clip in x]
  assert len(set(alone)) == 8
  assert [file_of(codes) for codes in codec.encode(x)] == alone
  mesh = jax.make_mesh((8,), ("data",))
  shards = NamedSharding(mesh, PartitionSpec("data"))
  encode = jax.jit(
    lambda x: codec.model.apply(codec.variables, x, method="encode").codes,
    in_shardings=shards,
    out_shardings=shards,
  )
  assert [file_of(codes) for codes in encode(x)] == alone
  for clip, data in zip(x, alone, strict=True):
    codes = bitstream.read(io.BytesIO(data)).codes
    np.testing.assert_array_equal(codes, codec.encode(clip)[0])
