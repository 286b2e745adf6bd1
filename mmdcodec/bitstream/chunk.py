"""Chunks: the parts of a `.mmdc` file after its header.

Version 2, all numbers little-endian:

  chunk    sync u32 | sequence u32 | frames u32 | payload bytes u32
           | payload CRC-32 | head CRC-32 | payload
  payload  scales f32 [scales] | codes

Chunk number i holds the frames from i * chunk_frames on. The CRC of a chunk's
head continues the header's, so a chunk from a file with another model or other
settings is not valid. Only the `trailer` distinguishes chunks of two files with
the same header: without it, a chunk copied from the other file is accepted.

Raw codes are packed frame by frame. Entropy-coded ones are stored codebook by
codebook, each after its number of bytes (LEB128), so that codebooks can be
dropped without decoding.
"""

import dataclasses
import struct
import zlib
from typing import IO, NamedTuple

import numpy as np

from mmdcodec.bitstream import entropy, packing
from mmdcodec.bitstream.header import Header
from mmdcodec.errors import UserError

SYNC = b"\x8bMC\x96"
HEAD = struct.Struct("<4sIIIII")

# A chunk has at least one byte per this many codes, so the file size bounds the
# memory and time of a reader, whatever the header claims. Only silence would
# take fewer bytes; it is padded with zeros.
CODES_PER_BYTE = 16


class Damaged(Exception):
  """Raised for bytes that no writer produces; the message has the reason."""


@dataclasses.dataclass(frozen=True)
class Head:
  """The head of a chunk: sequence number, sizes, CRC of the payload."""

  sequence: int
  frames: int
  payload: int
  crc: int

  def to_bytes(self, seed: int) -> bytes:
    """Encodes the head for a file whose header has the CRC `seed`."""
    data = HEAD.pack(SYNC, *dataclasses.astuple(self), 0)[:-4]
    return data + struct.pack("<I", zlib.crc32(data, seed))


def parse_head(data: bytes, header: Header, seed: int) -> Head | None:
  """Parses a head from `HEAD.size` bytes; None if it is not valid."""
  if len(data) < HEAD.size or data[:4] != SYNC:
    return None
  *fields, crc = HEAD.unpack(data)[1:]
  if zlib.crc32(data[:-4], seed) != crc:
    return None
  head = Head(*fields)
  codes = head.frames * header.codebooks
  if (
    not 1 <= head.frames <= header.chunk_frames
    or codes > CODES_PER_BYTE * head.payload
    or head.payload > max_payload(header)
  ):
    return None
  return head


class Place(NamedTuple):
  """Offset of a chunk's payload in a file, and its expected head."""

  offset: int
  head: Head


def read_payload(
  file: IO[bytes], place: Place, header: Header, seed: int
) -> bytes | None:
  """Reads a payload; None if it or its head does not match `place`."""
  file.seek(place.offset - HEAD.size)
  head = parse_head(file.read(HEAD.size), header, seed)
  if head != place.head:
    return None
  data = file.read(head.payload)
  if len(data) != head.payload or zlib.crc32(data) != head.crc:
    return None
  return data


def max_payload(header: Header) -> int:
  """Returns the size of the largest possible payload in bytes.

  A code takes at most 24 bits, the precision of the coder.
  """
  frames = header.chunk_frames
  return (
    4 * header.scales(frames)
    + 4 * frames * header.codebooks
    + 16 * header.codebooks
  )


def to_payload(
  codes: np.ndarray, scale: np.ndarray | None, header: Header
) -> bytes:
  """Encodes the scales and codes [frames, codebooks] of one chunk."""
  data = b"" if scale is None else np.asarray(scale, "<f4").tobytes()
  if header.coding == "raw":
    data += packing.pack_codes(codes, header.codebook_size)
  else:
    data += join(entropy.encode(codes, header.codebook_size, header.coding))
  return data.ljust(-(-codes.size // CODES_PER_BYTE), b"\0")


def from_payload(
  data: bytes, frames: int, header: Header
) -> tuple[np.ndarray, np.ndarray | None]:
  """Inverse of `to_payload`.

  Returns:
    int32 codes [frames, codebooks], and float32 scales or None.

  Raises:
    Damaged: no writer produces these bytes for such a chunk.
  """
  count = header.scales(frames)
  if len(data) < 4 * count:
    raise Damaged("a chunk ends within its scales")
  scale = np.frombuffer(data, "<f4", count).astype(np.float32)
  if not np.isfinite(scale).all():
    raise Damaged("a scale is not a finite number")
  data = data[4 * count :]
  if header.coding == "raw":
    try:
      codes = packing.unpack_codes(
        data,
        frames=frames,
        codebooks=header.codebooks,
        size=header.codebook_size,
      )
    except UserError as error:
      raise Damaged(str(error).rstrip(".")) from None
  else:
    parts = split(data, header.codebooks)
    try:
      codes = entropy.decode(parts, frames, header.codebook_size, header.coding)
    except ValueError as error:
      raise Damaged(f"codes cannot be decoded ({error})") from None
  return codes, scale if count else None


def join(parts: list[bytes]) -> bytes:
  """Concatenates the codebooks of a chunk, each after its number of bytes."""
  out = bytearray()
  for part in parts:
    count = len(part)
    while count >= 128:
      out.append(count & 127 | 128)
      count >>= 7
    out.append(count)
    out += part
  return bytes(out)


def split(data: bytes, codebooks: int) -> list[bytes]:
  """Inverse of `join`; zero bytes may follow.

  Raises:
    Damaged: the lengths do not fit the data.
  """
  parts, at = [], 0
  for _ in range(codebooks):
    count = shift = 0
    while True:
      if at >= len(data) or shift > 28:
        raise Damaged("the lengths of a chunk's codebooks do not fit it")
      byte = data[at]
      count |= (byte & 127) << shift
      at, shift = at + 1, shift + 7
      if byte < 128:
        break
    if at + count > len(data):
      raise Damaged("the lengths of a chunk's codebooks do not fit it")
    parts.append(data[at : at + count])
    at += count
  if data[at:].strip(b"\0"):
    raise Damaged("a chunk holds more than its codes")
  return parts


def keep_codebooks(
  data: bytes, frames: int, header: Header, kept: Header
) -> bytes:
  """Reduces the payload of a chunk to its first codebooks.

  Entropy-coded codebooks are copied unchanged; no model is needed.

  Args:
    data: the payload.
    frames: number of frames in the chunk.
    header: header of the file.
    kept: the same header with fewer codebooks.

  Returns:
    The smaller payload.

  Raises:
    Damaged: no writer produces these bytes for such a chunk.
  """
  if header.coding == "raw":
    codes, scale = from_payload(data, frames, header)
    return to_payload(codes[:, : kept.codebooks], scale, kept)
  scales = 4 * header.scales(frames)
  parts = split(data[scales:], header.codebooks)
  data = data[:scales] + join(parts[: kept.codebooks])
  return data.ljust(-(-frames * kept.codebooks // CODES_PER_BYTE), b"\0")
