"""Codes as plain bits.

Catches: codes that change when packed (any codebook size, block borders), a
layout that drifts away from EnCodec's bit order, and codes outside of their
codebook that pass.
"""

import numpy as np
import pytest
from coded_streams import slow_bits

from mmdcodec import bitstream
from mmdcodec.errors import UserError


@pytest.mark.parametrize(
  "size", [2, 3, 5, 16, 17, 1000, 1024, 1025, 2048, 65536, 65537, 1 << 24]
)
@pytest.mark.parametrize("frames", [0, 1, 37])
def test_packing_is_exact_for_any_codebook_size(size, frames):
  rng = np.random.default_rng(size)
  codes = rng.integers(0, size, (frames, 3), dtype=np.int32)
  if frames:
    codes[0] = [0, size - 1, size // 2]
  data = bitstream.pack_codes(codes, size)
  bits = int(np.ceil(np.log2(size)))
  assert data == slow_bits(codes, bits)
  back = bitstream.unpack_codes(data, frames=frames, codebooks=3, size=size)
  assert back.dtype == np.int32
  np.testing.assert_array_equal(back, codes)


def test_packing_across_blocks():
  # 70000 codes are three blocks, and 11 bits end blocks within no byte.
  codes = np.random.default_rng(0).integers(0, 1025, (7000, 10))
  data = bitstream.pack_codes(codes, 1025)
  assert data == slow_bits(codes, 11)
  back = bitstream.unpack_codes(data, frames=7000, codebooks=10, size=1025)
  np.testing.assert_array_equal(back, codes)


def test_codes_outside_the_codebook():
  with pytest.raises(ValueError, match="10"):
    bitstream.pack_codes(np.array([[10]]), 10)
  with pytest.raises(ValueError, match="10"):
    bitstream.pack_codes(np.array([[-1]]), 10)
  with pytest.raises(UserError, match="15"):
    bitstream.unpack_codes(b"\xff", frames=2, codebooks=1, size=10)
  with pytest.raises(UserError, match="stray"):
    bitstream.unpack_codes(b"\xf1", frames=1, codebooks=1, size=10)
