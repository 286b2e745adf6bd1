"""Reading a `.mmdc` file: in order, from any second on, or what is left of it.

A whole file is read by its trailer, which knows where each chunk lies. A
damaged one is searched for chunks whose checksums hold. Each of them decodes
by itself, so what is lost is what was hit.
"""

import contextlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from mmdcodec.bitstream import chunk, version1
from mmdcodec.bitstream import header as header_lib
from mmdcodec.bitstream.header import CRC
from mmdcodec.bitstream.held import Held, Piece
from mmdcodec.bitstream.stream import Stream
from mmdcodec.errors import UserError

_BLOCK = 1 << 20
# Forged chunks may lie within each other, and each must be read to be refused.
_MOST_READ = 16


class _Place(NamedTuple):
  """Where the payload of a chunk lies."""

  offset: int
  head: chunk.Head


class Reader:
  """An open `.mmdc` file of version 2.

  Attributes:
    version: of the file.
    name: of the file, for messages.
    header: what holds for the whole file.
    chunks: number of chunks, lost ones included.
    frames: of the whole file, lost ones included.
    samples: of the audio. If the trailer is lost, as many as the frames hold.
    damage: sentences that say what is wrong; empty in a whole file.
    lost: (first, end) frames of every lost stretch.
  """

  version = header_lib.VERSION

  def __init__(self, file: BinaryIO, name: str, *, recover: bool = False):
    """Reads the header and finds the chunks.

    Args:
      file: seekable.
      name: of the file, for messages.
      recover: search a damaged file for what is left.

    Raises:
      UserError: it is no `.mmdc` file, of an unknown version, or damaged
        (with recover: nothing is left, not even a header).
    """
    self.name, self.damage, self.lost = name, [], []
    self._file, self._recover = file, recover
    self._places: dict[int, _Place] = {}
    self._window = 0, b""
    self.size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(header_lib.SIZE)
    try:
      self.header = header_lib.parse(start, name)
      self._start = header_lib.SIZE
    except UserError as error:
      if not recover:
        raise
      self._header_from_end(error)
    (self._seed,) = CRC.unpack(self.header.to_bytes()[-4:])
    trailer = self._read_trailer()
    if not recover:
      if trailer is None:
        raise UserError(
          f"{name} is damaged: it does not end as a whole file does. With"
          " --recover you get what is left of it."
        )
      self._use_index(*trailer)
    else:
      self._search(trailer)

  def pieces(self, first: int = 0, end: int | None = None) -> Iterator[Piece]:
    """The codes of a range of frames, chunk by chunk.

    Args:
      first: frame to begin with; the chunks around it are not read.
      end: frame to stop before; the last one by default.

    Yields:
      `Piece`s. In a codec with segments, pieces are cut between segments: the
      first begins at or before `first`.

    Raises:
      UserError: a chunk is damaged (only without recover).
    """
    end = self.frames if end is None else min(end, self.frames)
    step = self.header.chunk_frames
    segment = self.header.segment_frames or 1
    last = None
    for number in range(first // step, -(-end // step)):
      piece = self._piece(number, last)
      last = last if piece.lost else piece
      skip = max(0, first - piece.first) // segment * segment
      stop = min(len(piece.codes), end - piece.first)
      scale = piece.scale
      if scale is not None and self.header.segment_frames:
        scale = scale[skip // segment : -(-stop // segment)]
      yield Piece(piece.first + skip, piece.codes[skip:stop], scale, piece.lost)

  def _piece(self, number: int, last: Piece | None) -> Piece:
    """A chunk, or what stands for it if it is lost."""
    if number in self._places:
      try:
        return self._read(number)
      except UserError as error:
        # Its checksum held, and yet it is none: a forgery, and found late.
        if not self._recover:
          raise
        del self._places[number]
        self._lose(number, number + 1, str(error))
    return self._fill(number, last)

  def payloads(self) -> Iterator[tuple[bytes, int]]:
    """The chunks as they are: payload and frames of each.

    Raises:
      UserError: one is damaged.
    """
    for number in range(self.chunks):
      place = self._places[number]
      data = self._payload(place)
      if data is None:
        raise UserError(self._broken(number))
      yield data, place.head.frames

  def read(self) -> Stream:
    """All codes at once.

    Raises:
      UserError: a chunk is damaged (only without recover).
    """
    pieces = list(self.pieces())
    header = self.header
    codes = [piece.codes for piece in pieces]
    scale = None
    if header.scaled and pieces:
      scales = [piece.scale for piece in pieces]
      scale = np.concatenate(scales) if header.segment_frames else scales[0]
    return Stream(
      codes=np.concatenate([np.zeros((0, header.codebooks), np.int32), *codes]),
      samples=self.samples,
      rate=header.rate,
      channels=header.channels,
      codebook_size=header.codebook_size,
      stride=header.stride,
      model=header.model,
      scale=scale,
      segment_frames=header.segment_frames,
      segment_hop=header.segment_hop,
      lost=tuple(self.lost),
    )

  def time(self, frame: int) -> float:
    """The second at which a frame begins."""
    return frame / self.header.frame_rate

  def check(self) -> None:
    """Reads every payload and compares its checksum.

    Raises:
      UserError: one is damaged (with recover, they were checked before).
    """
    if not self._recover:
      for _ in self.payloads():
        pass

  # -- a whole file --------------------------------------------------------

  def _read_trailer(self) -> tuple[np.ndarray, int, int, int] | None:
    """Payload sizes, frames, samples and place of the trailer, if it is whole.

    It is one that fits the header, and says nothing that cannot be.
    """
    found = self._trailer_bytes()
    if found is None:
      return None
    data, start = found
    tail = chunk.TAIL.size
    (crc,) = CRC.unpack(data[-8:-4])
    if zlib.crc32(data[:-8], self._seed) != crc:
      return None
    head = header_lib.SIZE + tail
    frames, samples = chunk.TOTALS.unpack_from(
      data, len(data) - head - chunk.TOTALS.size
    )
    index = data[: len(data) - head - chunk.TOTALS.size]
    if len(index) % 4 or data[-head:-tail] != self.header.to_bytes():
      return None
    sizes = np.frombuffer(index, "<u4").astype(np.int64)
    if len(sizes) != -(-frames // self.header.chunk_frames) or (
      samples > self.header.most_samples(frames)
    ):
      return None
    return sizes, frames, samples, start

  def _trailer_bytes(self) -> tuple[bytes, int] | None:
    """What may be the trailer, by the length it gives, and its place."""
    least = chunk.TOTALS.size + header_lib.SIZE + chunk.TAIL.size
    if self.size < least:
      return None
    self._file.seek(self.size - chunk.TAIL.size)
    length, _, end = chunk.TAIL.unpack(self._file.read(chunk.TAIL.size))
    if end != chunk.END or not least <= length <= self.size:
      return None
    self._file.seek(self.size - length)
    data = self._file.read(length)
    return (data, self.size - length) if len(data) == length else None

  def _header_from_end(self, error: UserError) -> None:
    """Takes the header's copy in the trailer.

    Raises:
      UserError: that is lost, too.
    """
    found = self._trailer_bytes()
    header = None
    if found is not None:
      data = found[0][: -chunk.TAIL.size][-header_lib.SIZE :]
      with contextlib.suppress(UserError):
        header = header_lib.parse(data, self.name)
    if header is None:
      raise UserError(
        f"{str(error).rstrip('.')}; nothing can be recovered, for the copy of"
        " its header at its end is lost, too."
      )
    self.header, self._start = header, 0
    self.damage.append("the header is lost; its copy at the end is whole")

  def _use_index(self, sizes, frames: int, samples: int, start: int) -> None:
    """Believes the trailer; each chunk is checked when it is read."""
    heads = chunk.HEAD.size
    offsets = self._start + heads + np.cumsum(sizes + heads) - (sizes + heads)
    total = self._start + int((sizes + heads).sum())
    if total != start:
      raise UserError(
        f"{self.name} is damaged: its chunks take {total} bytes where"
        f" {start} are. With --recover you get what is left of it."
      )
    step = self.header.chunk_frames
    self.frames, self.samples, self.chunks = frames, samples, len(sizes)
    for i, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
      count = min(step, frames - i * step)
      head = chunk.Head(i, count, int(size), 0)
      self._places[i] = _Place(int(offset), head)

  def _read(self, number: int) -> Piece:
    """One chunk.

    Raises:
      UserError: it is damaged.
    """
    place = self._places[number]
    data = self._payload(place)
    if data is None:
      raise UserError(self._broken(number))
    try:
      codes, scale = chunk.from_payload(data, place.head.frames, self.header)
    except chunk.Damaged as error:
      # Its checksum holds, so it was written like this.
      raise UserError(
        f"{self.name} is damaged: chunk {number}: {error}."
      ) from None
    return Piece(number * self.header.chunk_frames, codes, scale, lost=False)

  def _payload(self, place: _Place) -> bytes | None:
    """The payload, or None if it or its head are not what they should be."""
    self._file.seek(place.offset - chunk.HEAD.size)
    head = chunk.parse_head(
      self._file.read(chunk.HEAD.size), self.header, self._seed
    )
    wanted = place.head
    if head is None or (head.sequence, head.frames, head.payload) != (
      wanted.sequence,
      wanted.frames,
      wanted.payload,
    ):
      return None
    data = self._file.read(head.payload)
    if len(data) != head.payload or zlib.crc32(data) != head.crc:
      return None
    return data

  def _broken(self, number: int) -> str:
    header = self.header
    first = number * header.chunk_frames
    end = min(first + header.chunk_frames, self.frames)
    times = f"{self.time(first):.1f} to {self.time(end):.1f} s"
    return (
      f"{self.name} is damaged: the checksum of chunk {number} ({times}) is"
      " wrong. With --recover you get the rest."
    )

  # -- a damaged file ------------------------------------------------------

  def _search(self, trailer) -> None:
    """Finds all chunks that are whole, in any order."""
    limit = self.size if trailer is None else trailer[3]
    budget = _MOST_READ * self.size + (64 << 20)
    at, strays = self._start, 0
    while (place := self._next_place(at, limit)) is not None:
      head = place.head
      data = self._payload(place)
      budget -= head.payload
      if budget < 0:
        raise UserError(
          f"{self.name} is damaged beyond recovery: its chunks lie within each"
          " other."
        )
      if data is None:
        at = place.offset
        continue
      if head.sequence in self._places:
        strays += 1
      else:
        self._places[head.sequence] = place
      at = place.offset + head.payload
    if strays:
      self.damage.append(f"{strays} chunks are there twice")
    self._account(trailer)

  def _next_place(self, at: int, limit: int) -> _Place | None:
    """The first valid head from a byte on."""
    size = chunk.HEAD.size
    while at + size <= limit:
      begin, data = self._window
      if not begin <= at <= begin + len(data) - size:
        self._file.seek(at)
        begin, data = at, self._file.read(min(_BLOCK, limit - at))
        self._window = begin, data
        if len(data) < size:
          break
      found = data.find(chunk.SYNC, at - begin)
      if not 0 <= found <= len(data) - size:
        at = begin + len(data) - size + 1
        continue
      at = begin + found
      head = chunk.parse_head(
        data[found : found + size], self.header, self._seed
      )
      if head and at + size + head.payload <= limit:
        return _Place(at + size, head)
      at += 1
    return None

  def _account(self, trailer) -> None:
    """Says what is lost."""
    header, step = self.header, self.header.chunk_frames
    # Only the last chunk may be short.
    last = max(self._places, default=-1)
    for number, place in list(self._places.items()):
      if number < last and place.head.frames < step:
        del self._places[number]
    if trailer is not None:
      sizes, self.frames, self.samples, _ = trailer
      self.chunks = len(sizes)
      for number, place in list(self._places.items()):
        if place.head.frames != min(step, self.frames - number * step):
          del self._places[number]
    else:
      self.damage.append(
        "the end is lost: how long the audio was is only known to a chunk"
      )
      self._count_chunks()
    missing = self.chunks - len(self._places)
    # A forged number must not make a reader invent days of audio.
    least = chunk.HEAD.size + step * header.codebooks // chunk.CODES_PER_BYTE
    if missing > 8 + len(self._places) + self.size // least:
      self.damage.append(
        f"{missing} chunks are missing, more than the file has room for; the"
        " gaps are closed, not filled"
      )
      places = [place for _, place in sorted(self._places.items())]
      self._places = dict(enumerate(places))
      self._count_chunks()
    number = 0
    while number < self.chunks:
      begin = number
      while number < self.chunks and number not in self._places:
        number += 1
      if number > begin:
        what = f"{number - begin} of {self.chunks} chunks are lost"
        self._lose(begin, number, what)
      number += 1

  def _count_chunks(self) -> None:
    """Takes the chunks found, and gaps between them, for the whole file."""
    header, last = self.header, max(self._places, default=-1)
    self.chunks, self.frames = last + 1, 0
    if last >= 0:
      self.frames = last * header.chunk_frames + self._places[last].head.frames
    self.samples = header.most_samples(self.frames)
    if header.segment_frames:
      whole, rest = divmod(self.frames, header.segment_frames)
      self.samples = min(
        self.samples, whole * header.segment_hop + rest * header.stride
      )

  def _lose(self, begin: int, end: int, what: str) -> None:
    """Notes that chunks from one up to another are lost."""
    step = self.header.chunk_frames
    span = begin * step, min(end * step, self.frames)
    self.lost.append(span)
    times = "{:.1f} to {:.1f} s".format(*(self.time(n) for n in span))
    self.damage.append(f"{what.rstrip('.')} ({times})")

  def _fill(self, number: int, last: Piece | None) -> Piece:
    """Copies of the nearest frame in place of a lost chunk."""
    header, step = self.header, self.header.chunk_frames
    count = min(step, self.frames - number * step)
    if last is None:
      known = [n for n in self._places if n < number]
      after = [n for n in self._places if n > number]
      if known or after:
        last = self._read(max(known) if known else min(after))
    row, scale = np.zeros(header.codebooks, np.int32), 1.0
    if last is not None:
      at = -1 if last.first < number * step else 0
      row = last.codes[at]
      scale = 1.0 if last.scale is None else last.scale[at]
    scales = header.scales(count)
    return Piece(
      number * step,
      np.tile(row, (count, 1)),
      np.full(scales, scale, np.float32) if scales else None,
      lost=True,
    )


@contextlib.contextmanager
def opened(
  source: str | os.PathLike | BinaryIO, *, recover: bool = False
) -> Iterator[Reader | Held]:
  """Opens a `.mmdc` file.

  Args:
    source: path or binary file. One that cannot be sought in, such as a pipe,
      is copied to a temporary file first.
    recover: search a damaged file for what is left of it.

  Yields:
    A `Reader`; for a file of version 1 a `Held`.

  Raises:
    UserError: as `Reader`, or the file cannot be read.
  """
  with contextlib.ExitStack() as stack:
    if hasattr(source, "read"):
      file, name = source, "the stream"
      if not file.seekable():
        file = stack.enter_context(tempfile.TemporaryFile())
        shutil.copyfileobj(source, file)
        file.seek(0)
    else:
      name = os.fspath(source)
      try:
        file = stack.enter_context(open(source, "rb"))
      except FileNotFoundError as error:
        raise UserError(f"There is no file {name}.") from error
      except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.") from error
    start = file.read(header_lib.PREFIX.size)
    file.seek(0)
    try:
      version = header_lib.version_of(start, name)
    except UserError:
      if not recover:
        raise
      version = header_lib.VERSION  # its end may tell what it is
    if version == 1:
      yield Held(version1.read(file, name), name, version=1)
    else:
      yield Reader(file, name, recover=recover)
