"""Knows every kind of file that can be read, and where its sound is.

libsndfile reads a file whose end is missing as if it were merely shorter, stops
after the first stream of a chain, and believes lengths that have overflowed.
Training on half a recording is worse than an error. So `contents` finds all the
sound that a file has from the lengths in its container, and refuses a file that
does not have all that it promises.
"""

import math
import os
from typing import IO, Literal

from mmdcodec.audio import chunks, flac_frames, mp3_frames, ogg_links
from mmdcodec.audio.formats import SUFFIXES
from mmdcodec.audio.windows import (
  DAMAGED,
  SEVERAL,
  TRUNCATED,
  Unreadable,
  at,
  window,
)
from mmdcodec.errors import UserError

# A complete MP3 may lack this many samples: if it was cut out of a longer
# recording, its first frames cannot be decoded.
MP3_SLACK = 4 * 1152

# The beginnings of files that are not audio, or none that can be read.
_FOREIGN = (
  (b"<", "is a web page or XML, not audio; download the file itself"),
  (b"{", "is JSON, not audio; download the file itself"),
  (b"%PDF", "is a PDF, not audio"),
  (b"PK\3\4", "is a ZIP archive; unpack it"),
  (b"\x1f\x8b", "is a gzip archive; unpack it"),
  (b"\x1aE\xdf\xa3", "is Matroska or WebM; convert it to FLAC"),
  (b"\x30\x26\xb2\x75", "is WMA or WMV; convert it to FLAC"),
)


def contents(stream: IO[bytes], name: str) -> list[IO[bytes]]:
  """Finds the sound of a file, all of it.

  Args:
    stream: seekable stream, at the beginning of the file.
    name: name of the file in messages.

  Returns:
    Streams to decode one after the other: the given one alone if libsndfile
    reads all of it, else windows on it, with headers that say what is there.

  Raises:
    UserError: the file is empty, truncated or of no known kind.
  """
  start = stream.tell()
  size = stream.seek(0, os.SEEK_END) - start
  stream.seek(start)
  if not size:
    raise UserError(f"{name}: is empty; expected an audio file.")
  if start:
    stream = window(stream, start, start + size)
  try:
    parts = _parts(stream, size)
  except Unreadable as error:
    raise UserError(f"{name}: {error}.") from None
  for part in parts:
    part.seek(0)
  return parts


def _parts(stream: IO[bytes], size: int) -> list[IO[bytes]]:
  """`contents` of a stream that is one file.

  Raises:
    Unreadable: the file cannot be read to its end.
  """
  head = at(stream, 0, 12)
  if chunks.known(head):
    return [_chunked(stream, size)]
  if head[:4] == b"OggS":
    links = ogg_links.links(stream, size)
    if len(links) < 2:
      return [stream]
    return [window(stream, begin, end) for begin, end in links]
  if head[:4] == b"fLaC":
    return [_flac(stream, size)]
  if head[:4] in (b".snd", b"dns."):
    _check_au(stream, head, size)
    return [stream]
  if head[:8] == b"NIST_1A\n":
    return [_nist(stream, size)]
  # An MP3 may begin with anything, not just with a frame.
  if mp3 := mp3_frames.layout(stream, size):
    return [_mp3(stream, size, mp3)]
  if (tag := mp3_frames.after_id3(stream)) and tag < size:
    return _parts(window(stream, tag, size), size - tag)
  raise Unreadable(_foreign(at(stream, 0, 1024)))


def _chunked(stream: IO[bytes], size: int) -> IO[bytes]:
  """WAV and its kin, AIFF and CAF."""
  sound = chunks.sound(stream, size)
  if sound.is_mpeg:
    length = sound.end - sound.begin
    inner = window(stream, sound.begin, sound.end)
    mp3 = mp3_frames.layout(inner, length)
    if mp3 is None:
      raise Unreadable("has no MP3 frames where its header says; convert it")
    return _mp3(inner, length, mp3)
  if not sound.stated:
    return chunks.with_length(stream, sound)
  if sound.form.inclusive:
    # libsndfile plays the chunks after the sound of a W64, too.
    return window(stream, 0, sound.end)
  return stream


def _flac(stream: IO[bytes], size: int) -> IO[bytes]:
  flac = flac_frames.layout(stream, size)
  if flac is None:
    raise Unreadable(DAMAGED)
  odd = flac.too_large or flac.found != flac.promised
  if odd and flac_frames.holds_another(stream, size):
    raise Unreadable(SEVERAL)
  if flac.found is None:
    if not flac.promised:
      raise Unreadable(TRUNCATED)
    # Something follows the frames: whether they are whole, decoding will show.
    return stream
  if not flac.promised:
    return flac_frames.counted(stream, size, flac.found)
  if flac.found < flac.promised:
    raise Unreadable(TRUNCATED)
  if flac.found > flac.promised:
    raise Unreadable(
      f"holds {flac.found} samples, and its header says {flac.promised}; decode"
      " and encode it again"
    )
  return stream


def _check_au(stream: IO[bytes], head: bytes, size: int) -> None:
  order: Literal["big", "little"] = "big" if head[:1] == b"." else "little"
  begin = int.from_bytes(head[4:8], order)
  length = int.from_bytes(head[8:12], order)
  if length != 0xFFFFFFFF:
    _check_end(stream, begin + length, size, head[:4])


def _check_end(stream: IO[bytes], end: int, size: int, magic: bytes) -> None:
  """Checks that a file has all of its sound, and no other file follows."""
  if end > size:
    raise Unreadable(TRUNCATED)
  if at(stream, end, len(magic)) == magic:
    raise Unreadable(SEVERAL)


def _nist(stream: IO[bytes], size: int) -> IO[bytes]:
  """NIST SPHERE, the files of TIMIT, whose names end in .WAV."""
  words = at(stream, 0, 1024).split()
  fields = dict(zip(words, words[2:], strict=False))
  if b"shorten" in fields.get(b"sample_coding", b""):
    raise Unreadable("is compressed by shorten; convert it to FLAC")
  names = (b"channel_count", b"sample_n_bytes", b"sample_count")
  try:
    begin, length = int(words[1]), math.prod(int(fields[n]) for n in names)
  except (IndexError, KeyError, ValueError):
    raise Unreadable(DAMAGED) from None
  _check_end(stream, begin + length, size, b"NIST_1A\n")
  # libsndfile reads to the end of the file.
  return window(stream, 0, begin + length)


def _mp3(stream: IO[bytes], size: int, mp3: mp3_frames.Layout) -> IO[bytes]:
  cut = mp3.cut
  if mp3.promised is not None:
    # Some encoders count the tag itself, some file cutters count nothing.
    missing = (mp3.promised - mp3.frames) * mp3.samples
    # Of a file with a tag, the last frame alone may be cut, as many are.
    cut = missing > (mp3.samples if mp3.cut else MP3_SLACK)
  if cut or not mp3.frames:  # without frames, only the tag is there
    raise Unreadable(TRUNCATED)
  if mp3.frames == mp3.promised:
    return stream
  return mp3_frames.tagged(stream, size, mp3)


def _foreign(head: bytes) -> str:
  """Says what a file is that cannot be read."""
  head = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
  for magic, words in _FOREIGN:
    if head.startswith(magic):
      return words
  if head[4:8] == b"ftyp":
    return "is MP4 or M4A; convert it to FLAC"
  return (
    "is not audio in a known format; convert it to FLAC, or to another of"
    f" {' '.join(SUFFIXES)}"
  )
