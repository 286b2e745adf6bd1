"""Where the sound is in files of chunks: WAV and its kin, AIFF and CAF.

All of them are a sequence of chunks with a name and a length. They differ in
the widths of both, the order of bytes, and what a length counts.
"""

from collections.abc import Iterator
from typing import IO, Literal, NamedTuple

from mmdcodec.audio.windows import SEVERAL, TRUNCATED, Unreadable, at, window

# A file has about ten chunks; zeros look like endless empty chunks.
_MAX_CHUNKS = 1000

# Programs that write to a pipe do not know the length of a WAV, and write 0 or
# about 2^31 or 2^32 (within this many bytes).
_NEAR = 1 << 16

_WRAP = 1 << 32

# Bytes of padding after a sound, at most.
_MOST_PADDING = 8


class _Form(NamedTuple):
  """The layout of a kind of file.

  Attributes:
    first: offset of the first chunk.
    name: bytes of a chunk's name.
    length: bytes of its length.
    order: order of bytes in a length.
    align: chunks begin at multiples of this many bytes.
    inclusive: whether a length includes the chunk's own header.
    data: name of the chunk with the sound, or its beginning.
  """

  first: int
  name: int
  length: int
  order: Literal["little", "big"]
  align: int = 2
  inclusive: bool = False
  data: bytes = b"data"


_WAVE = _Form(12, 4, 4, "little")
_FORMS = {
  b"RIFF": _WAVE,
  b"RF64": _WAVE,
  b"BW64": _WAVE,
  b"RIFX": _WAVE._replace(order="big"),
  b"FORM": _Form(12, 4, 4, "big", data=b"SSND"),
  b"caff": _Form(8, 4, 8, "big", align=1),
  # Sony Wave64: names are GUIDs that begin with the name in a WAV.
  b"riff": _Form(40, 16, 8, "little", align=8, inclusive=True),
}
_KINDS = (b"WAVE", b"AIFF", b"AIFC")

# Coding numbers of MPEG audio in a `fmt ` chunk: layers 1 and 2, and layer 3.
_MPEG = (0x50, 0x55)


class Sound(NamedTuple):
  """The sound in a file of chunks.

  Attributes:
    begin: offset of its first byte in the stream.
    end: offset of the byte after its last.
    stated: whether the file's own headers say so; else they give another
      length, or none.
    fmt: contents of the `fmt ` chunk of WAV and its kin.
    form: layout of the file.
    is_64: whether a WAV has its lengths in a chunk of their own.
  """

  begin: int
  end: int
  stated: bool
  fmt: bytes
  form: _Form
  is_64: bool

  @property
  def is_wave(self) -> bool:
    """Whether the file is a WAV with bytes in Intel's order."""
    return self.form == _WAVE

  @property
  def is_mpeg(self) -> bool:
    """Whether the sound is a stream of MPEG audio."""
    coding = int.from_bytes(self.fmt[:2], "little")
    if coding == 0xFFFE:  # extensible: the number begins a GUID
      coding = int.from_bytes(self.fmt[24:26], "little")
    return self.is_wave and coding in _MPEG


def known(head: bytes) -> bool:
  """Whether a file with these first 12 bytes is one of chunks."""
  form = _FORMS.get(head[:4])
  if form is None:
    return False
  return form.first != 12 or head[8:12] in _KINDS


def sound(stream: IO[bytes], size: int) -> Sound:
  """Finds the sound in a file of chunks.

  Args:
    stream: the file.
    size: its bytes.

  Raises:
    Unreadable: the sound is not all there, or another file follows it.
  """
  kind = at(stream, 0, 4)
  form, is_64 = _FORMS[kind], kind in (b"RF64", b"BW64")
  fmt, found = b"", None
  for name, body, length in _chunks(stream, size, form):
    if found:
      if name in _FORMS or name == form.data:
        raise Unreadable(SEVERAL)
    elif name == form.data:
      found = _extent(stream, form, body, length, size)
      if not found[2]:
        break
    elif body + length > size:
      break
    elif name == b"fmt ":
      fmt = at(stream, body, min(length, 1 << 10))
  if found is None:
    raise Unreadable(TRUNCATED)
  begin, end, stated = found
  # A file that was appended need not begin where a chunk would.
  after = at(stream, end, _MOST_PADDING + 4)
  if any(after[i : i + 4] in _FORMS for i in range(_MOST_PADDING)):
    raise Unreadable(SEVERAL)
  # libsndfile knows RF64, but not BW64, its newer name.
  stated = stated and kind != b"BW64"
  return Sound(begin, end, stated, fmt, form, is_64)


def with_length(stream: IO[bytes], found: Sound) -> IO[bytes]:
  """Returns a file with the true length of its sound in the header.

  Raises:
    Unreadable: the header cannot hold the length.
  """
  form, length = found.form, found.end - found.begin
  too_long = form.length == 4 and length >= _WRAP
  if found.is_64 or (found.is_wave and too_long):
    return window(stream, found.begin, found.end, _long_header(found))
  if too_long:
    raise Unreadable(
      "is longer than its header can say; convert it to FLAC or RF64"
    )
  if form.inclusive:
    length += form.name + form.length
  head = at(stream, 0, found.begin - form.length)
  head += length.to_bytes(form.length, form.order)
  return window(stream, found.begin, found.end, head)


def _long_header(found: Sound) -> bytes:
  """The header of RF64 (EBU Tech 3306), whose lengths have 64 bits."""
  length = found.end - found.begin
  block = int.from_bytes(found.fmt[12:14], "little")
  fmt = found.fmt + b"\0" * (len(found.fmt) % 2)
  lengths = (length + 60 + len(fmt), length, length // max(1, block))
  ds64 = b"".join(n.to_bytes(8, "little") for n in lengths) + bytes(4)
  unknown = b"\xff" * 4
  head = b"RF64" + unknown + b"WAVE" + _chunk(b"ds64", ds64)
  return head + _chunk(b"fmt ", fmt) + b"data" + unknown


def _chunk(name: bytes, body: bytes) -> bytes:
  return name + len(body).to_bytes(4, "little") + body


def _chunks(
  stream: IO[bytes], size: int, form: _Form
) -> Iterator[tuple[bytes, int, int]]:
  """Yields (name to 4 bytes, position of the body, length) of each chunk."""
  position, header = form.first, form.name + form.length
  long_length = None
  for _ in range(_MAX_CHUNKS):
    # A length may be beyond what a stream can seek to.
    head = at(stream, position, header) if position < size else b""
    if len(head) < header:
      return
    length = int.from_bytes(head[form.name :], form.order)
    if form.inclusive:
      length -= header
    if length < 0:
      return
    if head[:4] == b"ds64":
      long_length = int.from_bytes(
        at(stream, position + header + 8, 8), "little"
      )
    elif head[:4] == form.data and length == _WRAP - 1:
      length = long_length or length
    yield head[:4], position + header, length
    position += header + length
    position += -position % form.align


def _extent(
  stream: IO[bytes], form: _Form, body: int, length: int, size: int
) -> tuple[int, int, bool]:
  """Begin and end of the sound, and whether the headers say so.

  Args:
    stream: seekable stream.
    form: layout of the file.
    body: offset of the sound.
    length: its length by the header.
    size: bytes of the file.

  Raises:
    Unreadable: the file ends before the sound does.
  """
  left = size - body
  if _is_unknown(form, length) and not _chunk_at(
    stream, form, body + length, size
  ):
    return body, size, False
  if length > left:
    raise Unreadable(TRUNCATED)
  if form.length == 4 and left - length >= _WRAP:
    # The length has lost its upper bits.
    return body, body + length + (left - length) // _WRAP * _WRAP, False
  return body, body + length, True


def _is_unknown(form: _Form, length: int) -> bool:
  """Whether a length may stand for an unknown one."""
  if length == 0 or length >= _WRAP << 30:
    return True
  nearest = min(abs(length - _WRAP // 2), abs(length - _WRAP))
  return form.length == 4 and nearest <= _NEAR


def _chunk_at(stream: IO[bytes], form: _Form, position: int, size: int) -> bool:
  """Whether the file ends where a sound does, or goes on with a chunk."""
  position += -position % form.align
  if position >= size:
    return position <= size + 1
  head = at(stream, position, form.name + form.length)
  after = position + int.from_bytes(head[form.name :], form.order)
  return all(32 <= byte < 127 for byte in head[:4]) and after <= size
