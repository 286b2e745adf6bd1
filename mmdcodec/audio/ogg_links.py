"""The links of an Ogg file.

An Ogg file is a sequence of pages (RFC 3533). Recordings of radio and files
joined with `cat` are chains: several streams, one after the other, each with
headers of its own. libsndfile decodes the first of them and no more.
"""

import struct
import zlib
from typing import IO

from mmdcodec.audio.windows import DAMAGED, TRUNCATED, Unreadable, at

# The fields of a page before its table of segments: flags and serial number.
_HEADER = struct.Struct("<4sBB8xI8xB")
_BEGINS, _ENDS = 2, 4

# Each byte with its bits in reverse.
_MIRRORED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))

# Bytes of a page at most.
_PAGE = 27 + 255 + 255 * 255


def links(stream: IO[bytes], size: int) -> list[tuple[int, int]]:
  """Finds the links of an Ogg file from the headers of its pages.

  Args:
    stream: the file.
    size: its bytes.

  Returns:
    `(begin, end)` of each link in bytes.

  Raises:
    Unreadable: a page is incomplete or damaged, or the last link has no end
      mark.
  """
  position = 0
  begins: list[int] = []
  # Serial numbers of the streams that have begun and not ended.
  open_streams: set[int] = set()
  in_headers = False
  while True:
    head = at(stream, position, _HEADER.size + 255)
    if len(head) < _HEADER.size and head:
      raise Unreadable(TRUNCATED)
    if not head:
      break
    _, _, flags, serial, segments = _HEADER.unpack_from(head)
    table = head[_HEADER.size :][:segments]
    if flags & _BEGINS:
      # The streams of one link begin together.
      if not in_headers:
        begins.append(position)
        open_streams.clear()
      open_streams.add(serial)
    in_headers = bool(flags & _BEGINS)
    if flags & _ENDS:
      open_streams.discard(serial)
    after = position + _HEADER.size + segments + sum(table)
    if len(table) < segments or after > size:
      raise Unreadable(TRUNCATED)
    whole = _is_whole(at(stream, position, after - position))
    if after < size and not _is_page(at(stream, after, 6)):
      found = _next_page(stream, position + 4)
      if found is not None and found < after:
        raise Unreadable(TRUNCATED)
      # Or a tag after the last page.
      after = size if found is None else found
    if not whole:
      raise Unreadable(DAMAGED)
    position = after
  if begins[:1] != [0]:
    raise Unreadable(DAMAGED)
  if open_streams:
    raise Unreadable(
      "has no end mark, so its end is missing; get a whole copy, or convert"
      " what is there to FLAC"
    )
  return list(zip(begins, [*begins[1:], size], strict=True))


def _is_whole(page: bytes) -> bool:
  """Whether the checksum of a page is right.

  A decoder passes over a damaged page, and where it is the first or the last
  one, nothing else shows that its samples are missing.
  """
  # The sum of the page without it: a CRC of 32 bits from the highest bit on,
  # which zlib takes from the lowest.
  mirrored = (page[:22] + bytes(4) + page[26:]).translate(_MIRRORED)
  found = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
  return found.to_bytes(4, "big").translate(_MIRRORED) == page[22:26]


def _is_page(head: bytes) -> bool:
  # The version is 0.
  return head[:5] == b"OggS\0"


def _next_page(stream: IO[bytes], position: int) -> int | None:
  """Position of the next page, as far as the longest page; or None."""
  data = at(stream, position, 2 * _PAGE)
  found = data.find(b"OggS\0")
  return None if found < 0 else position + found
