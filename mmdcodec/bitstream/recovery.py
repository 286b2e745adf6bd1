"""Searches a damaged `.mmdc` file for intact chunks."""

import os
from typing import IO, NamedTuple

from mmdcodec.bitstream import chunk
from mmdcodec.bitstream.chunk import Place
from mmdcodec.bitstream.header import Header
from mmdcodec.bitstream.trailer import Trailer
from mmdcodec.errors import UserError
from mmdcodec.formatting import count

_BLOCK = 1 << 20
# Forged chunks may overlap, and each must be read to be rejected. This limits
# the bytes that a search reads, in multiples of the file size.
_MAX_READS = 16
# Maximum candidates for one chunk; each may have to be decoded.
_MAX_CANDIDATES = 8
# Maximum number of codes filled in per byte of the file.
_LOST_PER_BYTE = 128


class Recovered(NamedTuple):
  """The result of a search.

  Attributes:
    places: number of a chunk -> candidates for its place; several only if the
      right one cannot be determined.
    chunks: number of chunks, including lost ones.
    frames: number of frames in them.
    samples: length of the audio per channel.
    damage: descriptions of the damage.
  """

  places: dict[int, list[Place]]
  chunks: int
  frames: int
  samples: int
  damage: list[str]


def search(
  file: IO[bytes],
  header: Header,
  seed: int,
  *,
  start: int,
  trailer: Trailer | None,
  limit: int,
  name: str,
) -> Recovered:
  """Finds all intact chunks of a file, in any order.

  Args:
    file: seekable file.
    header: header of the file.
    seed: CRC of the header.
    start: byte to begin with.
    trailer: trailer of the file, or None if it is lost. Chunks that it does not
      list belong to another file.
    limit: byte to stop before.
    name: name of the file, for messages.

  Raises:
    UserError: too many forged chunks overlap to search in reasonable time.
  """
  places: dict[int, list[Place]] = {}
  budget = _MAX_READS * file.seek(0, os.SEEK_END) + (64 << 20)
  scan, at, twice, foreign = _Scan(file, header, seed, limit), start, 0, 0
  while (place := scan.next(at)) is not None:
    head = place.head
    budget -= head.payload
    if budget < 0:
      raise UserError(
        f"{name} is damaged beyond recovery: its chunks lie within each other."
      )
    if chunk.read_payload(file, place, header, seed) is None:
      at = place.offset
      continue
    at = place.offset + head.payload
    found = places.get(head.sequence, [])
    if trailer is not None and head != _at(trailer.heads, head.sequence):
      foreign += 1
    elif len(found) == _MAX_CANDIDATES:
      foreign += 1
    elif any(other.head == head for other in found):
      twice += 1
    else:
      places[head.sequence] = [*found, place]
  damage = []
  if twice:
    damage.append(f"{count(twice, 'chunk is', 'chunks are')} there twice")
  if foreign:
    damage.append(f"{count(foreign, 'chunk is', 'chunks are')} of another file")
  return _account(file, header, trailer, places, damage)


def _at(heads: list[chunk.Head], number: int) -> chunk.Head | None:
  return heads[number] if number < len(heads) else None


class _Scan:
  """Searches a file for chunk heads, a window at a time."""

  def __init__(
    self, file: IO[bytes], header: Header, seed: int, limit: int
  ) -> None:
    self._file, self._header, self._seed = file, header, seed
    self._limit, self._window = limit, (0, b"")

  def next(self, at: int) -> Place | None:
    """Finds the first valid head from byte `at` on."""
    size, limit = chunk.HEAD.size, self._limit
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
        data[found : found + size], self._header, self._seed
      )
      if head and at + size + head.payload <= limit:
        return Place(at + size, head)
      at += 1
    return None


def _account(
  file: IO[bytes],
  header: Header,
  trailer: Trailer | None,
  places: dict[int, list[Place]],
  damage: list[str],
) -> Recovered:
  """Determines the original length and the chunks that fit in it."""
  step = header.chunk_frames
  if trailer is not None:
    chunks = len(trailer.heads)
    frames, samples = trailer.frames, trailer.samples
  else:
    damage.append(
      "the end is lost: the length of the audio is known only to a chunk"
    )
    # Only the last chunk may be short, and all its candidates must agree.
    last = max(places, default=-1)
    short = places[last][0].head.frames if places else 0
    fitting = {
      number: [
        p for p in found if p.head.frames == (short if number == last else step)
      ]
      for number, found in places.items()
    }
    places = {number: found for number, found in fitting.items() if found}
    chunks, frames, samples = _totals(header, places)
  missing = chunks - len(places)
  # A forged chunk number must not make a reader fill in days of audio.
  least = chunk.HEAD.size + step * header.codebooks // _LOST_PER_BYTE
  size = file.seek(0, os.SEEK_END)
  if missing > 8 + len(places) + size // least:
    damage.append(
      f"{missing} chunks are missing, more than the file has room for; the"
      " gaps are closed, not filled"
    )
    places = dict(enumerate(found for _, found in sorted(places.items())))
    chunks, frames, samples = _totals(header, places)
  return Recovered(places, chunks, frames, samples, damage)


def _totals(
  header: Header, places: dict[int, list[Place]]
) -> tuple[int, int, int]:
  """Counts chunks, frames and samples up to the last chunk, including gaps."""
  last = max(places, default=-1)
  frames = 0
  if last >= 0:
    frames = last * header.chunk_frames + places[last][0].head.frames
  samples = header.max_samples(frames)
  if header.segment_frames:
    whole, rest = divmod(frames, header.segment_frames)
    samples = min(samples, whole * header.segment_hop + rest * header.stride)
  return last + 1, frames, samples
