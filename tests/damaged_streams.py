"""Damaged and forged `.mmdc` files, and what becomes of those who read them."""

import io
import struct
import zlib

import numpy as np
from coded_streams import lively_codes, make_stream

from mmdcodec import bitstream
from mmdcodec.errors import UserError

HEADER = 50  # bytes, the last four a CRC
HEAD = 24
SEGMENTS = dict(
  scale=np.ones(25), segment_frames=4, segment_hop=1260, samples=31500
)


def make(coding="raw", frames=310, **more):
  codes = lively_codes(frames, 3, 1000)
  stream = make_stream(frames, codes=codes, **more)
  return stream, bitstream.to_bytes(stream, coding=coding, seconds=1.0)


def places(data: bytes) -> list[int]:
  """Where each chunk begins, and the trailer."""
  found, at = [], HEADER
  while data[at : at + 4] == b"\x8bMC\x96" and at + HEAD <= len(data):
    found.append(at)
    at += HEAD + struct.unpack_from("<I", data, at + 12)[0]
  return [*found, at]


def seal(data: bytes) -> bytes:
  """Makes all checksums right again, as far as sizes still fit."""
  data = bytearray(data)
  if len(data) < HEADER:
    return bytes(data)
  seed = zlib.crc32(data[: HEADER - 4])
  struct.pack_into("<I", data, HEADER - 4, seed)
  at, crcs = data.find(b"\x8bMC\x96"), []
  while 0 <= at <= len(data) - HEAD:
    size = struct.unpack_from("<I", data, at + 12)[0]
    payload = data[at + HEAD : at + HEAD + size]
    struct.pack_into("<I", data, at + 16, zlib.crc32(payload))
    struct.pack_into("<I", data, at + 20, zlib.crc32(data[at : at + 20], seed))
    crcs.append(zlib.crc32(payload))
    at = data.find(b"\x8bMC\x96", at + 4)
  (length,) = struct.unpack_from("<I", data, len(data) - 12)
  if 12 <= length <= len(data):
    start = len(data) - length
    if length >= HEADER + 28:
      data[-12 - HEADER : -12] = data[:HEADER]
      room = (length - HEADER - 28) // 8
      for i, crc in enumerate(crcs[:room]):
        struct.pack_into("<I", data, start + 8 * i + 4, crc)
    struct.pack_into(
      "<I", data, len(data) - 8, zlib.crc32(data[start:-8], seed)
    )
  return bytes(data)


def damage(data: bytes, rng) -> bytes:
  """One to three wounds of any kind."""
  data = bytearray(data)
  for _ in range(rng.integers(1, 4)):
    kind, at = rng.integers(8), int(rng.integers(max(1, len(data))))
    count = int(rng.integers(1, 40))
    if kind == 0 and data:
      data[at % len(data)] ^= 1 << rng.integers(8)
    elif kind == 1:
      data[at : at + count] = rng.bytes(min(count, len(data) - at))
    elif kind == 2:
      del data[at : at + count * int(rng.integers(1, 30))]
    elif kind == 3:
      data[at:at] = rng.bytes(count)
    elif kind == 4:
      del data[at:]
    elif kind == 5:  # any field of the header
      at = int(rng.integers(4, HEADER - 4))
      data[at : at + 4] = (b"\xff" * 4, b"\0" * 4, rng.bytes(4))[at % 3]
    elif kind == 6:  # any field of some chunk, or of the trailer
      heads = places(bytes(data))
      at = heads[rng.integers(len(heads))] + int(rng.integers(0, HEAD))
      data[at : at + 4] = (b"\xff" * 4, b"\0" * 4, rng.bytes(4))[at % 3]
    else:  # a piece of the file once more, elsewhere
      piece = data[at : at + int(rng.integers(1, 400))]
      at = int(rng.integers(len(data) + 1))
      data[at:at] = piece
  return bytes(data)


def try_reading(data: bytes, original=None) -> str:
  """What becomes of a file.

  Args:
    data: of the file.
    original: the stream that it held, where each frame that is not said to be
      lost must be as it was; None if checksums were made right again.

  Returns:
    "whole", "refused", "recovered", or "empty" if nothing was left.
  """
  result = "whole"
  try:
    stream = bitstream.read(io.BytesIO(data))
  except UserError:
    result = "refused"
    try:
      stream = bitstream.read(io.BytesIO(data), recover=True)
      result = "recovered"
    except UserError:
      return result
  size = stream.codebook_size
  assert stream.codes.min(initial=0) >= 0
  assert stream.codes.max(initial=0) < size
  assert stream.samples <= len(stream.codes) * stream.stride
  kept = np.ones(len(stream.codes), bool)
  for first, end in stream.lost:
    kept[first:end] = False
  if original is not None:
    assert len(kept) <= len(original.codes)
    frames = np.flatnonzero(kept)
    np.testing.assert_array_equal(stream.codes[kept], original.codes[frames])
    if stream.scale is not None and len(frames):
      unit = stream.segment_frames or len(kept)
      parts = np.unique(frames // unit)
      np.testing.assert_array_equal(stream.scale[parts], original.scale[parts])
    if result == "whole":
      assert stream.samples == original.samples and not stream.lost
      assert len(stream.codes) == len(original.codes)
  return result if kept.any() else "empty"


def run_many(count: int, seed: int) -> dict:
  """Reads so many damaged files.

  Args:
    count: of files.
    seed: of the damage.

  Returns:
    How often each outcome came: {(sealed again, outcome): number}, with the
    outcomes of `try_reading`.
  """
  rng, counts = np.random.default_rng(seed), {}
  files = [
    make(coding, frames, **more)
    for coding in bitstream.CODINGS
    for frames, more in (
      (160, {}),
      (80, dict(scale=np.full(1, 0.3, np.float32))),
      (100, {**SEGMENTS, "scale": np.arange(1, 26, dtype=np.float32)}),
    )
  ]
  for trial in range(count):
    stream, data = files[trial % len(files)]
    data, sealed = damage(data, rng), rng.integers(2)
    if sealed:
      data = seal(data)
    result = try_reading(data, None if sealed else stream)
    counts[bool(sealed), result] = counts.get((bool(sealed), result), 0) + 1
  return counts
