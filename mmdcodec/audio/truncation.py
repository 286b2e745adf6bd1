"""Detects truncated audio files from the lengths in their containers."""

import os
from typing import IO

from mmdcodec.audio import mp3_frames
from mmdcodec.errors import UserError

# A complete MP3 may lack this many samples: if it was cut out of a longer
# recording, its first frames cannot be decoded.
MP3_SLACK = 4 * 1152

# A wave file has about ten chunks; zeros look like endless empty chunks.
_MAX_CHUNKS = 1000


def check(stream: IO[bytes], name: str) -> IO[bytes]:
  """Checks that a file is as long as its container says.

  Args:
    stream: seekable stream, at the beginning of the file.
    name: name of the file in messages.

  Returns:
    The stream to decode: the given one, or one with a header that gives
    libsndfile the length.

  Raises:
    UserError: the file is empty or truncated.
  """
  start = stream.tell()
  size = stream.seek(0, os.SEEK_END) - start
  stream.seek(start)
  if not size:
    raise UserError(f"{name}: is empty; expected an audio file.")
  head = stream.read(12)
  cut, mp3 = False, None
  if head[:4] == b"RIFF" and head[8:] == b"WAVE":
    cut = _wave_is_cut(stream, start, size)
  elif head[:4] == b"FORM":
    cut = int.from_bytes(head[4:8], "big") + 8 > size
  elif head[:4] == b"OggS":
    cut = _ogg_is_cut(stream, start, size)
  elif head[:4] != b"fLaC":
    # An MP3 may begin with anything, not just with a frame.
    mp3 = mp3_frames.layout(stream, start, size)
    if mp3 is None:
      pass
    elif not mp3.frames:
      cut = True  # only the tag is there
    elif mp3.promised is None:
      cut = mp3.cut
    else:
      cut = mp3.frames * mp3.samples < mp3.promised * mp3.samples - MP3_SLACK
  stream.seek(start)
  if cut:
    raise UserError(f"{name}: is truncated; get a whole copy.")
  if mp3 and mp3.frames != mp3.promised:
    return mp3_frames.tagged(stream, start, mp3)
  return stream


def _wave_is_cut(stream: IO[bytes], start: int, size: int) -> bool:
  """Whether the data chunk extends past the end of the file."""
  position = 12
  for _ in range(_MAX_CHUNKS):
    if position + 8 > size:
      break
    stream.seek(start + position)
    chunk = stream.read(8)
    length = int.from_bytes(chunk[4:], "little")
    if chunk[:4] == b"data":
      # Programs that write to a pipe do not know the length and write 0, or
      # about 2^31 or 2^32.
      return length < 0x7FFF0000 and position + 8 + length > size
    position += 8 + length + length % 2
  return False


def _ogg_is_cut(stream: IO[bytes], start: int, size: int) -> bool:
  """Whether the last page (at most 65307 bytes) is incomplete."""
  tail = min(size, 65536)
  stream.seek(start + size - tail)
  data = stream.read(tail)
  page = data.rfind(b"OggS")
  while page >= 0:
    segments = data[page + 26 : page + 27]
    if not segments:
      return True
    table = data[page + 27 : page + 27 + segments[0]]
    if len(table) < segments[0]:
      return True
    end = page + 27 + len(table) + sum(table)
    # A chance "OggS" inside a page is rarely followed by version 0.
    if data[page + 4] == 0:
      return end > len(data)
    page = data.rfind(b"OggS", 0, page)
  return False
