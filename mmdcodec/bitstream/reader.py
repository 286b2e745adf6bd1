"""Reads a `.mmdc` file in order, from any second on, or despite damage.

The trailer of an intact file gives the size of each chunk. A damaged file is
searched for chunks with valid checksums. Each chunk decodes independently, so
only damaged chunks are lost.
"""

import bisect
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from mmdcodec.bitstream import chunk, recovery, trailer, version1
from mmdcodec.bitstream import header as header_lib
from mmdcodec.bitstream.chunk import Place
from mmdcodec.bitstream.header import CRC
from mmdcodec.bitstream.in_memory import InMemoryReader, Piece
from mmdcodec.bitstream.stream import Stream, name_of
from mmdcodec.errors import UserError
from mmdcodec.formatting import count
from mmdcodec.store import inputs


class Reader:
  """An open `.mmdc` file of version 2.

  Attributes:
    version: version of the file.
    name: name of the file, for messages.
    header: settings of the whole file.
    chunks: number of chunks, including lost ones.
    frames: number of frames, including lost ones.
    samples: length of the audio per channel. If the trailer is lost, the number
      of samples in all frames.
    damage: descriptions of the damage; empty for an intact file.
    lost: (first, end) of every range of lost frames.
  """

  version = header_lib.VERSION

  def __init__(
    self, file: IO[bytes], name: str, *, recover: bool = False
  ) -> None:
    """Reads the header and finds the chunks.

    Args:
      file: seekable file.
      name: name of the file, for messages.
      recover: whether to search a damaged file for intact chunks.

    Raises:
      UserError: the file is not a `.mmdc` file, has an unknown version, or is
        damaged; with recover, both copies of the header are lost.
    """
    self.name = name
    self.damage: list[str] = []
    self.lost: list[tuple[int, int]] = []
    self._file, self._recover = file, recover
    # Number of a chunk -> candidates for its place.
    self._places: dict[int, list[Place]] = {}
    self.size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start, begin = file.read(header_lib.SIZE), header_lib.SIZE
    end = trailer.find(file)
    try:
      self.header = header_lib.parse(start, name)
    except UserError as error:
      if not recover:
        raise
      self.header, begin = self._header_from_end(end, error), 0
    (self._seed,) = CRC.unpack(self.header.to_bytes()[-4:])
    known, limit = None, self.size
    if end is not None:
      known = trailer.parse(end[0], self.header, self._seed)
      limit = end[1] if known else self.size
    if recover:
      self._recover_from(begin, known, limit)
    elif known:
      self._use_index(known, begin, limit)
    else:
      raise UserError(
        f"{name} is damaged: its end is missing. Use --recover to read what is"
        " left of it."
      )

  def pieces(self, first: int = 0, end: int | None = None) -> Iterator[Piece]:
    """Reads the codes of a range of frames, chunk by chunk.

    Args:
      first: first frame; only chunks in the range are read.
      end: frame to stop before; None is the end of the file.

    Yields:
      A `Piece` per chunk. In a codec with segments, pieces are cut between
      segments, so the first may begin before `first`.

    Raises:
      UserError: a chunk is damaged (only without recover).
    """
    end = self.frames if end is None else min(end, self.frames)
    step = self.header.chunk_frames
    segment = self.header.segment_frames or 1
    last = None
    for number in range(first // step, -(-end // step)):
      piece = self._piece(number)
      if piece is None:
        last = last or self._neighbour(number)
        piece = self._fill(number, last)
      else:
        last = piece
      skip = max(0, first - piece.first) // segment * segment
      stop = min(len(piece.codes), end - piece.first)
      scale = piece.scale
      if scale is not None and self.header.segment_frames:
        scale = scale[skip // segment : -(-stop // segment)]
      yield Piece(piece.first + skip, piece.codes[skip:stop], scale, piece.lost)

  def payloads(self) -> Iterator[tuple[bytes, int]]:
    """Reads the payload and number of frames of every chunk.

    Raises:
      UserError: a chunk is damaged or lost.
    """
    for number in range(self.chunks):
      data = None
      for place in self._places.get(number, []):
        data = self._payload(place)
        if data is not None:
          break
      if data is None:
        raise UserError(self._broken(number))
      yield data, place.head.frames

  def read(self) -> Stream:
    """Reads all codes at once.

    Raises:
      UserError: a chunk is damaged (only without recover).
    """
    pieces = list(self.pieces())
    header = self.header
    codes = [piece.codes for piece in pieces]
    scale = None
    if header.scaled and pieces:
      scales = [piece.scale for piece in pieces if piece.scale is not None]
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
    """Returns the start of a frame in seconds."""
    return frame / self.header.frame_rate

  def check(self) -> None:
    """Reads every payload and verifies its checksum.

    Raises:
      UserError: a chunk is damaged (only without recover).
    """
    if not self._recover:
      for _ in self.payloads():
        pass

  # -- an intact file -----------------------------------------------------

  def _use_index(self, known: trailer.Trailer, begin: int, end: int) -> None:
    """Takes the chunks from the trailer; each is checked when it is read."""
    self.frames, self.samples = known.frames, known.samples
    self.chunks, at = len(known.heads), begin
    for head in known.heads:
      at += chunk.HEAD.size
      self._places[head.sequence] = [Place(at, head)]
      at += head.payload
    if at != end:
      raise UserError(
        f"{self.name} is damaged: its chunks take {at - begin} bytes, but there"
        f" are {end - begin}. Use --recover to read what is left of it."
      )

  def _piece(self, number: int) -> Piece | None:
    """Reads a chunk; None if it is lost.

    Raises:
      UserError: it is damaged (only without recover).
    """
    found = self._places.get(number, [])
    wrong = None
    while found:
      data = self._payload(found[0])
      if data is None and not self._recover:
        raise UserError(self._broken(number))
      try:
        if data is None:
          raise chunk.Damaged("its checksum is wrong")
        frames = found[0].head.frames
        codes, scale = chunk.from_payload(data, frames, self.header)
        first = number * self.header.chunk_frames
        return Piece(first, codes, scale, lost=False)
      except chunk.Damaged as error:
        # A valid checksum with impossible content is a forgery.
        if not self._recover:
          raise UserError(
            f"{self.name} is damaged: chunk {number}: {error}."
          ) from None
        wrong = f"chunk {number} is lost: {error}"
        found.pop(0)
    if wrong:
      del self._places[number]
      self._lose(number, number + 1, wrong)
    return None

  def _payload(self, place: Place) -> bytes | None:
    return chunk.read_payload(self._file, place, self.header, self._seed)

  def _broken(self, number: int) -> str:
    header = self.header
    first = number * header.chunk_frames
    end = min(first + header.chunk_frames, self.frames)
    times = f"{self.time(first):.1f} to {self.time(end):.1f} s"
    if self._recover:
      return f"{self.name} is damaged: chunk {number} ({times}) is lost."
    return (
      f"{self.name} is damaged: the checksum of chunk {number} ({times}) is"
      " wrong. Use --recover to read the rest."
    )

  # -- a damaged file ------------------------------------------------------

  def _header_from_end(
    self, end: tuple[bytes, int] | None, error: UserError
  ) -> header_lib.Header:
    """Reads the copy of the header in the trailer.

    Raises:
      UserError: the copy is lost too.
    """
    header = trailer.header_in(end[0], self.name) if end else None
    if header is None:
      raise UserError(
        f"{str(error).rstrip('.')}; nothing can be recovered, because the copy"
        " of the header at the end is lost too."
      )
    self.damage.append("the header is lost; its copy at the end is intact")
    return header

  def _recover_from(
    self, begin: int, known: trailer.Trailer | None, end: int
  ) -> None:
    """Searches for chunks and records which are lost."""
    found = recovery.search(
      self._file,
      self.header,
      self._seed,
      start=begin,
      trailer=known,
      limit=end,
      name=self.name,
    )
    self._places, self.chunks = found.places, found.chunks
    self.frames, self.samples = found.frames, found.samples
    self.damage += found.damage
    number = 0
    while number < self.chunks:
      first = number
      while number < self.chunks and number not in self._places:
        number += 1
      if number > first:
        words = count(number - first, "of {} chunks is", "of {} chunks are")
        self._lose(first, number, words.format(self.chunks) + " lost")
      number += 1
    heads = [place.head for each in found.places.values() for place in each]
    stray = end - begin - sum(chunk.HEAD.size + head.payload for head in heads)
    if stray and not self.damage:
      words = count(stray, "byte belongs", "bytes belong")
      self.damage.append(f"{words} to no chunk; all chunks are intact")

  def _lose(self, begin: int, end: int, what: str) -> None:
    """Records that the chunks from `begin` to before `end` are lost."""
    step = self.header.chunk_frames
    span = begin * step, min(end * step, self.frames)
    bisect.insort(self.lost, span)
    times = "{:.1f} to {:.1f} s".format(*(self.time(n) for n in span))
    self.damage.append(f"{what.rstrip('.')} ({times})")

  def _neighbour(self, number: int) -> Piece | None:
    """Reads the nearest intact chunk before a lost one, or else after it."""
    before = sorted((n for n in self._places if n < number), reverse=True)
    after = sorted(n for n in self._places if n > number)
    found = (self._piece(n) for n in (*before, *after))
    return next((piece for piece in found if piece is not None), None)

  def _fill(self, number: int, last: Piece | None) -> Piece:
    """Fills a lost chunk with copies of the nearest frame."""
    header, step = self.header, self.header.chunk_frames
    frames = min(step, self.frames - number * step)
    row, scale = np.zeros(header.codebooks, np.int32), 1.0
    if last is not None:
      at = -1 if last.first < number * step else 0
      row = last.codes[at]
      scale = 1.0 if last.scale is None else last.scale[at]
    scales = header.scales(frames)
    return Piece(
      number * step,
      np.tile(row, (frames, 1)),
      np.full(scales, scale, np.float32) if scales else None,
      lost=True,
    )


@contextlib.contextmanager
def opened(
  source: str | os.PathLike | IO[bytes], *, recover: bool = False
) -> Iterator[Reader | InMemoryReader]:
  """Opens a `.mmdc` file.

  Args:
    source: path or binary file. A pipe is first copied to a temporary file.
    recover: whether to search a damaged file for intact chunks.

  Yields:
    A `Reader`; an `InMemoryReader` for a file of version 1.

  Raises:
    UserError: as `Reader`, or the file cannot be read.
  """
  with contextlib.ExitStack() as stack:
    file: Any
    if not isinstance(source, str | os.PathLike):
      file, name = source, name_of(source)
      if not file.seekable():
        file = stack.enter_context(tempfile.TemporaryFile())
        shutil.copyfileobj(source, file)
        file.seek(0)
    else:
      name = str(source)
      file = stack.enter_context(inputs.open_file(source))
    start = file.read(header_lib.PREFIX.size)
    file.seek(0)
    try:
      version = header_lib.version_of(start, name)
    except UserError:
      if not recover:
        raise
      version = header_lib.VERSION  # the trailer may still identify it
    if version == 1:
      yield _version1(file, name, recover=recover)
    else:
      yield Reader(file, name, recover=recover)


def _version1(
  file: IO[bytes], name: str, *, recover: bool
) -> Reader | InMemoryReader:
  """Reads a file of version 1, or one whose version number is damaged."""
  try:
    return InMemoryReader(version1.read(file, name), name, version=1)
  except UserError:
    if recover:
      with contextlib.suppress(UserError):
        return Reader(file, name, recover=True)
    raise
