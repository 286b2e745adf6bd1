"""The trailer of a `.mmdc` file: its length and an index of its chunks.

  trailer  (payload bytes u32 | payload CRC-32) [chunks] | frames u64
           | samples u64 | header | trailer bytes u32 | CRC-32 | end u32

The CRC continues the header's. The index holds the checksum of every payload,
so a chunk of another file is not valid even if both files have the same
settings. The copy of the header makes a file readable if its start is lost.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Sequence
from typing import IO, NamedTuple

import numpy as np

from mmdcodec.bitstream import header as header_lib
from mmdcodec.bitstream.chunk import Head
from mmdcodec.bitstream.header import CRC, Header
from mmdcodec.errors import UserError

_END = b"\x8bME\x96"
_TOTALS = struct.Struct("<QQ")
_TAIL = struct.Struct("<II4s")
_REST = _TOTALS.size + header_lib.SIZE + _TAIL.size  # all but the index


class Trailer(NamedTuple):
  """Content of a trailer.

  Attributes:
    heads: heads of all chunks, in order.
    frames: number of frames in the file.
    samples: length of the audio per channel.
  """

  heads: list[Head]
  frames: int
  samples: int


def to_bytes(
  heads: Sequence[Head], samples: int, header: Header, seed: int
) -> bytes:
  """Encodes the trailer of a file whose header has the CRC `seed`."""
  index = [(head.payload, head.crc) for head in heads]
  data = np.array(index, "<u4").tobytes()
  frames = sum(head.frames for head in heads)
  data += _TOTALS.pack(frames, samples) + header.to_bytes()
  data += struct.pack("<I", len(data) + _TAIL.size)
  return data + CRC.pack(zlib.crc32(data, seed)) + _END


def find(file: IO[bytes]) -> tuple[bytes, int] | None:
  """Finds a possible trailer; returns its bytes and offset, or None."""
  size = file.seek(0, os.SEEK_END)
  if size < _REST:
    return None
  file.seek(size - _TAIL.size)
  length, _, end = _TAIL.unpack(file.read(_TAIL.size))
  if end != _END or not _REST <= length <= size:
    return None
  file.seek(size - length)
  data = file.read(length)
  return (data, size - length) if len(data) == length else None


def header_in(data: bytes, name: str) -> Header | None:
  """Parses the header's copy in a possible trailer; None if damaged."""
  with contextlib.suppress(UserError):
    return header_lib.parse(data[: -_TAIL.size][-header_lib.SIZE :], name)
  return None


def parse(data: bytes, header: Header, seed: int) -> Trailer | None:
  """Inverse of `to_bytes`; returns None if the bytes are not a trailer."""
  (crc,) = CRC.unpack(data[-8:-4])
  index, rest = data[:-_REST], data[-_REST : -_TAIL.size]
  if zlib.crc32(data[:-8], seed) != crc or len(index) % 8:
    return None
  if rest[_TOTALS.size :] != header.to_bytes():
    return None
  frames, samples = _TOTALS.unpack_from(rest)
  step, index = header.chunk_frames, np.frombuffer(index, "<u4").reshape(-1, 2)
  if len(index) != -(-frames // step) or samples > header.max_samples(frames):
    return None
  heads = [
    Head(i, min(step, frames - i * step), *entry)
    for i, entry in enumerate(index.tolist())
  ]
  return Trailer(heads, frames, samples)
