"""The length of an MP3 file, from its frames.

An MP3 file is a sequence of frames, each with a 4-byte header (ISO 11172-3,
2.4.1.3, and 13818-3). Encoders first write a silent frame that holds the number
of the others (the Xing tag, called "Info" in files of constant bit rate).
Without it, libsndfile guesses the length from the file size and the first frame
and decodes no more than that. `layout` counts the frames, and `tagged` prepends
the missing tag.
"""

from typing import IO, NamedTuple

from mmdcodec.audio.windows import Unreadable, at, window

# Bit rates by version (1, or 2 and 2.5) and layer.
_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBPS = {
  (1, 1): tuple(range(32, 449, 32)),
  (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
  (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
  (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
  (2, 2): _LOW,
  (2, 3): _LOW,
}
_RATES = {
  3: (44100, 48000, 32000),
  2: (22050, 24000, 16000),
  0: (11025, 12000, 8000),
}

# Maximum bytes of padding between an ID3 tag and the first frame.
_JUNK = 1 << 16

# This many valid headers in a row do not occur by chance.
_ROW = 4


class _Frame(NamedTuple):
  """The parsed header of a frame."""

  size: int  # bytes
  samples: int
  side: int  # bytes of header and side information in layer 3
  layer: int


class Layout(NamedTuple):
  """Where the frames of a stream are.

  Attributes:
    begin: offset of the first frame of audio, in bytes.
    first: that frame's header.
    frames: number of complete audio frames.
    samples: samples per frame.
    promised: number of frames given by the Xing tag; None without a tag.
    cut: whether the stream ends inside a frame.
  """

  begin: int
  first: bytes
  frames: int
  samples: int
  promised: int | None
  cut: bool


def layout(stream: IO[bytes], size: int) -> Layout | None:
  """Counts the frames of an MP3 file.

  Args:
    stream: the file.
    size: its bytes.

  Returns:
    None if the file is not an MP3.
  """
  position, end = after_id3(stream), size
  synced = _sync(stream, position, end)
  if synced is None:
    return None
  position, promised = synced, None
  head = at(stream, position, 4)
  frame = _parsed(head)
  body = at(stream, position, frame.side + 12)
  if body[frame.side : frame.side + 4] in (b"Xing", b"Info"):
    if body[frame.side + 7] & 1:
      promised = int.from_bytes(body[frame.side + 8 : frame.side + 12], "big")
    position += frame.size
    head = at(stream, position, 4)
  begin, first, count, cut = position, head, 0, False
  while position < end:
    if found := _frame(head):
      position += found.size
      cut = position > end
      count += not cut
    else:
      # Damage in the middle or a tag at the end.
      synced = _sync(stream, position, end)
      if synced is None:
        break
      position = synced
    head = at(stream, position, 4)
  samples = _parsed(first).samples if count else 0
  return Layout(begin, first, count, samples, promised, cut)


def after_id3(stream: IO[bytes]) -> int:
  """Returns the offset of the first byte after the file's ID3 tags."""
  position = 0
  head = at(stream, 0, 10)
  while head[:3] == b"ID3" and len(head) == 10:
    # Each byte holds seven bits, so that a tag never looks like a frame.
    length = sum((b & 0x7F) << 7 * (3 - i) for i, b in enumerate(head[6:]))
    position += 10 + length + (10 if head[5] & 0x10 else 0)
    head = at(stream, position, 10)
  return position


def tagged(stream: IO[bytes], size: int, found: Layout) -> IO[bytes]:
  """Returns the stream from its first frame on, after a Xing tag.

  Args:
    stream: the file.
    size: its bytes.
    found: its `layout`.

  Raises:
    Unreadable: its layer has no tag, and its length cannot be told without.
  """
  first = _parsed(found.first)
  if first.layer < 3:
    # These layers have no tag. libsndfile divides the size of the file.
    if abs(size - found.begin - found.frames * first.size) > 4 * found.frames:
      raise Unreadable(
        f"is MPEG audio of layer {first.layer} whose bit rate varies, or has"
        " more than audio in it; convert it to FLAC"
      )
    return window(stream, found.begin, size)
  # Without a CRC, and at a bit rate whose frame is long enough for the tag.
  head = bytearray(found.first)
  head[1] |= 1
  head[2] = head[2] & 0x0D | 0x90
  frame = _parsed(bytes(head))
  tag = bytearray(frame.size)
  tag[:4] = head
  body = b"Xing" + (1).to_bytes(4, "big") + found.frames.to_bytes(4, "big")
  tag[frame.side : frame.side + 12] = body
  return window(stream, found.begin, size, bytes(tag))


def _sync(stream: IO[bytes], position: int, end: int) -> int | None:
  """Finds the first of several frames of one kind in a row, or None."""
  data = at(stream, position, min(_JUNK, max(0, end - position)))
  found = data.find(b"\xff")
  while found >= 0:
    if _in_a_row(stream, position + found, end):
      return position + found
    found = data.find(b"\xff", found + 1)
  return None


def _in_a_row(stream: IO[bytes], position: int, end: int) -> bool:
  """Whether several frames of one kind follow; one may occur by chance."""
  first = head = at(stream, position, 4)
  for _ in range(_ROW):
    frame = _frame(head)
    # Bit rate and padding may change; version, layer and sample rate may not.
    if not frame or (head[1] ^ first[1]) & 0xFE or (head[2] ^ first[2]) & 0x0C:
      return False
    position += frame.size
    if position >= end:
      return position == end
    head = at(stream, position, 4)
  return True


def _parsed(head: bytes) -> _Frame:
  """`_frame` of a header that is known to be valid."""
  frame = _frame(head)
  assert frame is not None
  return frame


def _frame(head: bytes) -> _Frame | None:
  """Parses a frame header; None if it is not one."""
  if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
    return None
  version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
  kbps, rate = head[2] >> 4, head[2] >> 2 & 3
  if version == 1 or layer == 4 or kbps in (0, 15) or rate == 3:
    return None
  first, mono = version == 3, head[3] >> 6 == 3
  samples = 384 if layer == 1 else 1152 if first or layer == 2 else 576
  bits = 1000 * _KBPS[1 if first else 2, layer][kbps - 1]
  # The unit of sizes: 4 bytes in layer 1.
  unit = 4 if layer == 1 else 1
  size = samples // 8 // unit * bits // _RATES[version][rate]
  size = unit * (size + (head[2] >> 1 & 1))
  side = {(1, 1): 17, (1, 0): 32, (0, 1): 9, (0, 0): 17}[first, mono]
  return _Frame(size, samples, 4 + side, layer)
