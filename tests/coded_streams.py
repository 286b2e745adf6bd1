"""Streams and files of codes for the tests of the `.mmdc` format."""

import struct
import zlib

import numpy as np

from mmdcodec import bitstream


def make_stream(frames=37, codebooks=3, size=1000, scale=None, seed=0, **more):
  """A stream of random codes, at 75 frames a second."""
  rng = np.random.default_rng(seed)
  fields = dict(
    codes=rng.integers(0, size, (frames, codebooks), dtype=np.int32),
    samples=frames * 320 - 7,
    rate=24000,
    channels=1,
    codebook_size=size,
    stride=320,
    model="0123456789abcdef",
    scale=scale,
  )
  return bitstream.Stream(**{**fields, **more})


def lively_codes(frames, codebooks, size, seed=0):
  """Codes [frames, codebooks] in which there is something to learn."""
  rng = np.random.default_rng(seed)
  chosen = rng.integers(0, size, (codebooks, 12))
  codes, state = np.zeros((frames, codebooks), np.int32), 0
  for t in range(frames):
    state = rng.integers(12) if rng.random() < 0.3 else state
    for k in range(codebooks):
      noise = rng.integers(12) if rng.random() < 0.2 else state
      codes[t, k] = chosen[k, noise]
  return codes


def version1(stream, scale=()) -> bytes:
  """A file of version 1, written by its layout."""
  header = b"MMDC\x01\x00" + struct.pack("<H", 52)
  header += struct.pack(
    "<IHHIIIQQ",
    stream.rate,
    stream.channels,
    stream.codebooks,
    stream.codebook_size,
    stream.stride,
    len(scale),
    len(stream.codes),
    stream.samples,
  )
  header += bytes.fromhex(stream.model)
  payload = np.asarray(scale, "<f4").tobytes()
  payload += slow_bits(
    stream.codes, int(np.ceil(np.log2(stream.codebook_size)))
  )
  crcs = [struct.pack("<I", zlib.crc32(data)) for data in (header, payload)]
  return header + crcs[0] + payload + crcs[1]


def slow_bits(codes, bits):
  """Independent packer: one Python integer, lowest bit first."""
  value = sum(int(c) << (i * bits) for i, c in enumerate(codes.ravel()))
  return value.to_bytes((codes.size * bits + 7) // 8, "little")
