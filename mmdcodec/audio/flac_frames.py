"""The length of a FLAC file, from its last frame.

The header of a FLAC file (STREAMINFO) gives the number of samples, or 0 where
the encoder wrote to a pipe and could not know it. Every frame begins with its
position and ends with a checksum (RFC 9639), so the last frame says where the
audio ends.
"""

import functools
from typing import IO, NamedTuple

from mmdcodec.audio.windows import at, window

# Bytes at the end of a file that are searched for the last frame, and those
# where one frame is longer.
_TAILS = (1 << 16, 1 << 21)

# Headers whose frame does not end the file, before the search gives up.
_TRIES = 4

_BLOCK_SIZES = {1: 192} | {i: 576 << i - 2 for i in range(2, 6)}
_BLOCK_SIZES |= {i: 256 << i - 8 for i in range(8, 16)}

# Metadata blocks of a file; zeros look like endless empty blocks.
_MAX_BLOCKS = 1000


class Layout(NamedTuple):
  """What a FLAC file says of its length.

  Attributes:
    promised: samples given by the header; 0 if unknown.
    found: samples up to the end of the last frame; None if no whole frame ends
      the file.
    too_large: whether the file is larger than so many samples can make it.
  """

  promised: int
  found: int | None
  too_large: bool


class _Frame(NamedTuple):
  """The parsed header of a frame."""

  first: int  # its first sample
  samples: int


def layout(stream: IO[bytes], size: int) -> Layout | None:
  """Compares the header of a FLAC file with its last frame.

  Args:
    stream: the file.
    size: its bytes.

  Returns:
    None if the header is damaged.
  """
  head = at(stream, 0, 42)
  if len(head) < 42 or head[4] & 0x7F or head[5:8] != b"\0\0\x22":
    return None
  begin = _first_frame(stream, size)
  if begin is None:
    return None
  end = _without_tags(stream, begin, size)
  promised = int.from_bytes(head[21:26], "big") & (1 << 36) - 1
  block = int.from_bytes(head[10:12], "big")
  # Largest size of a frame (0 if unknown), and fewest samples in one.
  most, fewest = (
    int.from_bytes(head[15:18], "big"),
    int.from_bytes(head[8:10], "big"),
  )
  frames = -(-promised // max(1, fewest))
  too_large = 0 < most * frames < end - begin
  first = _frame(at(stream, begin, 16), block)
  last = _last_frame(stream, begin, end, block)
  if first is None or last is None:
    return Layout(promised, None, too_large)
  found = last.first + last.samples - first.first
  return Layout(promised, found, too_large)


def counted(stream: IO[bytes], size: int, samples: int) -> IO[bytes]:
  """Returns the file with its number of samples in the header."""
  head = bytearray(at(stream, 0, 26))
  head[21] = head[21] & 0xF0 | samples >> 32
  head[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
  return window(stream, 26, size, bytes(head))


def holds_another(stream: IO[bytes], size: int) -> bool:
  """Whether another FLAC file follows, which takes reading all of it."""
  start, step = b"fLaC\0\0\0\x22", 1 << 20
  # Blocks overlap, so that none of them cuts the beginning of a file.
  return any(
    start in at(stream, position, step + len(start))
    for position in range(1, size, step)
  )


def _first_frame(stream: IO[bytes], size: int) -> int | None:
  """Position after the metadata blocks."""
  position = 4
  for _ in range(_MAX_BLOCKS):
    head = at(stream, position, 4)
    if len(head) < 4 or position > size:
      return None
    position += 4 + int.from_bytes(head[1:], "big")
    if head[0] & 0x80:
      return position if position < size else None
  return None


def _without_tags(stream: IO[bytes], begin: int, end: int) -> int:
  """Position of the tags after the frames, which MP3 taggers add."""
  if end - begin >= 128 and at(stream, end - 128, 3) == b"TAG":
    end -= 128  # ID3v1
  foot = at(stream, max(begin, end - 32), 32)  # of APE, before it
  if foot[:8] == b"APETAGEX" and end - begin >= 32:
    has_header = foot[23] & 0x80
    end -= int.from_bytes(foot[12:16], "little") + (32 if has_header else 0)
  return max(begin, end)


def _last_frame(
  stream: IO[bytes], begin: int, end: int, block: int
) -> _Frame | None:
  """The frame that ends at `end`, by its checksum."""
  tries = 0
  for tail in _TAILS:
    position = max(begin, end - tail)
    data = at(stream, position, end - position)
    found = len(data)
    while tries < _TRIES:
      found = data.rfind(b"\xff", 0, found)
      if found < 0:
        break
      frame = _frame(data[found : found + 16], block)
      if frame is None:
        continue
      if _crc16(data[found:]) == 0:
        return frame
      tries += 1
    if tries or position == begin:
      break
  return None


def _frame(head: bytes, block: int) -> _Frame | None:
  """Parses the header of a frame.

  Args:
    head: its first 16 bytes.
    block: samples of a block by the file's header.
  """
  if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
    return None
  size, rate = head[2] >> 4, head[2] & 15
  if size == 0 or rate == 15 or head[3] >> 4 > 10 or head[3] & 1:
    return None
  # The position is coded as in UTF-8: leading ones give the number of bytes.
  ones = next((i for i in range(8) if not head[4] & 0x80 >> i), 8)
  if ones in (1, 8):
    return None
  extra, after = max(0, ones - 1), 5
  number = head[4] & 0x7F >> ones
  for byte in head[after : after + extra]:
    if byte >> 6 != 2:
      return None
    number = number << 6 | byte & 0x3F
  after += extra
  samples = _BLOCK_SIZES.get(size, 0)
  if size in (6, 7):
    width = size - 5
    samples = 1 + int.from_bytes(head[after : after + width], "big")
    after += width
  after += {12: 1, 13: 2, 14: 2}.get(rate, 0)
  if after >= len(head) or _crc8(head[:after]) != head[after]:
    return None
  # Positions count samples if the sizes of blocks vary, else blocks.
  return _Frame(number if head[1] & 1 else number * block, samples)


@functools.cache
def _table(polynomial: int, bits: int) -> tuple[int, ...]:
  table = []
  for value in range(256):
    value <<= bits - 8
    for _ in range(8):
      top = value >> bits - 1
      value = (value << 1 & (1 << bits) - 1) ^ (polynomial if top else 0)
    table.append(value)
  return tuple(table)


def _crc8(data: bytes) -> int:
  table, value = _table(0x07, 8), 0
  for byte in data:
    value = table[value ^ byte]
  return value


def _crc16(data: bytes) -> int:
  table, value = _table(0x8005, 16), 0
  for byte in data:
    value = value << 8 & 0xFF00 ^ table[value >> 8 ^ byte]
  return value
