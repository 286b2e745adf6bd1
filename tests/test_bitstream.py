"""The `.mmdc` container.

Catches: codes that change when packed (any codebook size, block borders), a
layout that drifts away from EnCodec's bit order or from version 1, damage that
passes unseen, crashes or allocates by what a forged header says, or a half file
left behind.
"""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from mmdcodec import bitstream
from mmdcodec.errors import UserError

# Codes and bytes of EnCodec's own packer at 3 bits.
ENCODEC_3_BITS = (
  [
    5,
    1,
    3,
    3,
    3,
    2,
    7,
    1,
    1,
    5,
    7,
    1,
    4,
    4,
    1,
    5,
    3,
    4,
    7,
    1,
    6,
    5,
    3,
    4,
    2,
    3,
    2,
    0,
    4,
    7,
    1,
    1,
    2,
    2,
    0,
    1,
    6,
  ],
  "cd363de943a6e3e38e9ac0271262",
)


def make_stream(frames=37, codebooks=3, size=1000, scale=None, seed=0):
  rng = np.random.default_rng(seed)
  return bitstream.Stream(
    codes=rng.integers(0, size, (frames, codebooks), dtype=np.int32),
    samples=frames * 320 - 7,
    rate=24000,
    channels=1,
    codebook_size=size,
    stride=320,
    model="0123456789abcdef",
    scale=scale,
  )


def slow_bits(codes, bits):
  """Independent packer: one Python integer, lowest bit first."""
  value = sum(int(c) << (i * bits) for i, c in enumerate(codes.ravel()))
  return value.to_bytes((codes.size * bits + 7) // 8, "little")


def seal(data: bytes) -> bytes:
  """Makes both checksums right again, as a forger would."""
  header, payload = data[:52], data[56:-4]
  crcs = [struct.pack("<I", zlib.crc32(x)) for x in (header, payload)]
  return header + crcs[0] + payload + crcs[1]


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


def test_packing_agrees_with_encodec():
  tokens = np.array(ENCODEC_3_BITS[0])[:, None]
  assert bitstream.pack_codes(tokens, 8).hex() == ENCODEC_3_BITS[1]


def test_codes_outside_the_codebook():
  with pytest.raises(ValueError, match="10"):
    bitstream.pack_codes(np.array([[10]]), 10)
  with pytest.raises(ValueError, match="10"):
    bitstream.pack_codes(np.array([[-1]]), 10)
  with pytest.raises(UserError, match="15"):
    bitstream.unpack_codes(b"\xff", frames=2, codebooks=1, size=10)
  with pytest.raises(UserError, match="stray"):
    bitstream.unpack_codes(b"\xf1", frames=1, codebooks=1, size=10)


@pytest.mark.parametrize("scale", [None, np.array([0.5, 2.0], np.float32)])
def test_file_round_trip(tmp_path, scale):
  stream = make_stream(scale=scale)
  path = tmp_path / "a.mmdc"
  size = bitstream.write(path, stream)
  assert path.stat().st_size == size
  assert size == 52 + 4 + 4 * (2 if scale is not None else 0) + 139 + 4
  assert [p.name for p in tmp_path.iterdir()] == ["a.mmdc"]
  buffer = io.BytesIO()
  bitstream.write(buffer, stream)
  assert buffer.getvalue() == path.read_bytes()
  for back in (
    bitstream.read(path),
    bitstream.read(io.BytesIO(buffer.getvalue())),
  ):
    np.testing.assert_array_equal(back.codes, stream.codes)
    for name in "samples rate channels codebook_size stride model".split():
      assert getattr(back, name) == getattr(stream, name)
    if scale is None:
      assert back.scale is None
    else:
      np.testing.assert_array_equal(back.scale, scale)
  assert back.frame_rate == 75
  assert back.bits_per_second == 37 * 3 * 10 / back.seconds
  assert back.seconds == pytest.approx((37 * 320 - 7) / 24000)


def test_layout_of_version_1_is_frozen():
  stream = bitstream.Stream(
    codes=np.array([[1, 2], [3, 0]]),
    samples=5,
    rate=8000,
    channels=2,
    codebook_size=4,
    stride=3,
    model="6d" * 8,
    scale=np.array([1.0]),
  )
  header = b"MMDC\x01\x00" + struct.pack("<H", 52)
  header += struct.pack("<IHHIIIQQ", 8000, 2, 2, 4, 3, 1, 2, 5) + b"m" * 8
  payload = struct.pack("<f", 1.0) + bytes([0b00_11_10_01])
  expected = header + struct.pack("<I", zlib.crc32(header))
  expected += payload + struct.pack("<I", zlib.crc32(payload))
  assert bitstream.to_bytes(stream) == expected


def test_contradicting_stream_is_not_written():
  stream = make_stream()
  for change in (
    dict(samples=37 * 320 + 1),
    dict(rate=0),
    dict(codes=stream.codes[0]),
    dict(codebook_size=4),
    dict(model="abcd"),
    dict(model="not hexadecimal!"),
  ):
    fields = {**vars(stream), **change}
    with pytest.raises(ValueError):
      bitstream.to_bytes(bitstream.Stream(**fields))


def test_every_byte_and_every_cut_is_guarded():
  data = bitstream.to_bytes(make_stream(frames=5, scale=np.ones(1)))
  for place in range(len(data)):
    for flip in (0x01, 0x80, 0xFF):
      damaged = bytearray(data)
      damaged[place] ^= flip
      with pytest.raises(UserError):
        bitstream.read(io.BytesIO(bytes(damaged)))
    with pytest.raises(UserError):
      bitstream.read(io.BytesIO(data[:place]))
  with pytest.raises(UserError):
    bitstream.read(io.BytesIO(data + b"\0"))


def test_random_and_forged_damage_never_crashes_nor_allocates():
  """Random damage, half of it with checksums made right again."""
  rng = np.random.default_rng(0)
  data = bitstream.to_bytes(make_stream(scale=np.ones(2)))
  refused = 0
  tracemalloc.start()
  for trial in range(600):
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 4)):
      kind = rng.integers(4)
      if kind == 0:
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
      elif kind == 1:
        start = rng.integers(4, 56)
        damaged[start : start + 4] = rng.bytes(4)
      elif kind == 2:
        start = int(rng.integers(4, 52))
        damaged[start : start + 8] = b"\xff" * rng.integers(1, 9)
      elif len(damaged) > 90:
        start, count = rng.integers(len(damaged)), rng.integers(1, 20)
        del damaged[start : start + count]
    damaged = bytes(damaged)
    if trial % 2 and len(damaged) > 60:
      damaged = seal(damaged)
    try:
      stream = bitstream.read(io.BytesIO(damaged))
    except UserError:
      refused += 1
    else:
      # Forged but plausible: within its codebooks and its own length.
      assert stream.codes.max() < stream.codebook_size
      assert stream.samples <= len(stream.codes) * stream.stride
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 4e6
  assert refused > 300


@pytest.mark.parametrize(
  "offset, form, value",
  [
    (8, "<I", 0),  # rate
    (8, "<I", 2**32 - 1),
    (12, "<H", 0),  # channels
    (12, "<H", 65535),
    (14, "<H", 0),  # codebooks
    (14, "<H", 65535),
    (16, "<I", 0),  # codebook size
    (16, "<I", 1),
    (16, "<I", 2**32 - 1),
    (20, "<I", 0),  # stride
    (20, "<I", 2**32 - 1),
    (24, "<I", 2**32 - 1),  # scales
    (28, "<Q", 2**64 - 1),  # frames
    (28, "<Q", 2**40),
    (28, "<Q", 0),
    (36, "<Q", 2**64 - 1),  # samples
    (36, "<Q", 37 * 320 + 1),
  ],
)
def test_absurd_header_with_right_checksums(offset, form, value):
  data = bytearray(bitstream.to_bytes(make_stream()))
  struct.pack_into(form, data, offset, value)
  with pytest.raises(UserError, match="damaged"):
    bitstream.read(io.BytesIO(seal(bytes(data))))


def test_messages_say_what_is_wrong(tmp_path):
  data = bitstream.to_bytes(make_stream())
  path = tmp_path / "a.mmdc"
  for content, words in (
    (b"", "not a .mmdc file"),
    (b"RIFF....WAVE", "not a .mmdc file"),
    (data[:4] + b"\x02" + data[5:], "version 2.*newer"),
    (data[:40], "ends within its header"),
    (data[:-9], "announces"),
  ):
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
      bitstream.read(path)
    assert str(path) in str(caught.value)
  with pytest.raises(UserError, match="no file"):
    bitstream.read(tmp_path / "missing.mmdc")
  with pytest.raises(UserError, match="cannot be read"):
    bitstream.read(tmp_path)
  with pytest.raises(UserError, match="cannot be written"):
    bitstream.write(tmp_path / "no" / "a.mmdc", make_stream())
