"""The links of an Ogg file.

An Ogg file is a sequence of pages (RFC 3533). Recordings of radio and files
joined with `cat` are chains: several streams, one after the other, each with
headers of its own. libsndfile decodes the first of them and no more.
"""

import struct
from typing import IO

from mmdcodec.audio.windows import TRUNCATED, Unreadable, at

# The fields of a page before its table of segments: flags and serial number.
_HEADER = struct.Struct("<4sBB8xI8xB")
_BEGINS, _ENDS = 2, 4

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
    Unreadable: a page is incomplete, or the last link has no end mark.
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
    if after < size and not _is_page(at(stream, after, 6)):
      found = _next_page(stream, position + 4)
      if found is None:
        break  # a tag after the last page
      if found < after:
        raise Unreadable(TRUNCATED)
      after = found
    position = after
  if open_streams:
    raise Unreadable(
      "has no end mark, so its end is missing; get a whole copy, or convert"
      " what is there to FLAC"
    )
  return list(zip(begins, [*begins[1:], size], strict=True))


def _is_page(head: bytes) -> bool:
  # The version is 0.
  return head[:5] == b"OggS\0"


def _next_page(stream: IO[bytes], position: int) -> int | None:
  """Position of the next page, as far as the longest page; or None."""
  data = at(stream, position, 2 * _PAGE)
  found = data.find(b"OggS\0")
  return None if found < 0 else position + found
