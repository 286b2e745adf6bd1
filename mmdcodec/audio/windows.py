"""Part of a stream as a file of its own, after bytes that replace its header.

Decoders get such a window where the file is a container that they do not know,
or where its header gives the wrong length.
"""

import io
from typing import IO, Any

# Why most files are not whole.
TRUNCATED = "is truncated; get a whole copy"
DAMAGED = "is truncated or damaged; get a whole copy"
SEVERAL = "holds several files one after the other; give them one by one"


class Unreadable(Exception):
  """A file cannot be read to its end; the message says why and what to do."""


class _Window(io.RawIOBase):
  """Bytes followed by part of a stream; never closes the stream."""

  def __init__(
    self, stream: IO[bytes], begin: int, end: int, head: bytes
  ) -> None:
    self._stream, self._head = stream, head
    self._start = begin - len(head)
    self._size = len(head) + max(0, end - begin)
    self._position = 0

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def tell(self) -> int:
    return self._position

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    self._position = offset + (0, self._position, self._size)[whence]
    return self._position

  def readinto(self, buffer: Any) -> int:
    count = max(0, min(len(buffer), self._size - self._position))
    data = self._head[self._position :][:count]
    if len(data) < count:
      # Decoders take a short answer for the end of the file.
      place = self._start + self._position + len(data)
      data += at(self._stream, place, count - len(data))
    buffer[: len(data)] = data
    self._position += len(data)
    return len(data)


def at(stream: IO[bytes], position: int, count: int) -> bytes:
  """Reads up to `count` bytes from a position on."""
  stream.seek(position)
  return stream.read(count)


def window(
  stream: IO[bytes], begin: int, end: int, head: bytes = b""
) -> IO[bytes]:
  """Returns part of a stream as a file, which never closes the stream.

  Args:
    stream: seekable stream.
    begin: offset of the part's first byte in the stream.
    end: offset of the byte after its last.
    head: bytes before the part.
  """
  file: Any = _Window(stream, begin, end, head)
  return file
