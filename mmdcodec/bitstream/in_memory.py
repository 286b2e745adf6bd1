"""Reads codes in memory through the interface of a file reader."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mmdcodec.bitstream.header import MAX_CODES, Header
from mmdcodec.bitstream.stream import Stream

_PIECE = MAX_CODES >> 6


class Piece(NamedTuple):
  """Codes of one chunk.

  Attributes:
    first: number of its first frame.
    codes: int32 [frames, codebooks].
    scale: float32 [scales] or None.
    lost: whether the chunk was damaged. Its codes are then copies of the
      nearest frame before it, or after it at the beginning of a file.
  """

  first: int
  codes: np.ndarray
  scale: np.ndarray | None
  lost: bool


class InMemoryReader:
  """Reads a stream in memory the way `Reader` reads a file.

  Attributes:
    version: version of the stream's `.mmdc` file; 0 for other sources.
    header, chunks, frames, samples, damage, lost, name: as in `Reader`.
  """

  def __init__(self, stream: Stream, name: str, *, version: int = 0) -> None:
    """Wraps a stream.

    Args:
      stream: the codes.
      name: name of the file, for messages.
      version: version of the file.
    """
    self.name, self.version, self._stream = name, version, stream
    self.frames, self.samples = len(stream.codes), stream.samples
    self.damage: list[str] = []
    self.lost: list[tuple[int, int]] = []
    unit = stream.segment_frames or 1
    self.header = Header(
      rate=stream.rate,
      channels=stream.channels,
      codebooks=stream.codebooks,
      codebook_size=stream.codebook_size,
      stride=stream.stride,
      chunk_frames=unit * max(1, _PIECE // stream.codebooks // unit),
      segment_frames=stream.segment_frames,
      segment_hop=stream.segment_hop,
      scaled=stream.scale is not None,
      model=stream.model,
    )
    self.chunks = -(-self.frames // self.header.chunk_frames)

  def in_segments(self, frames: int, hop: int) -> "InMemoryReader":
    """Returns a reader with segments, which version 1 does not record."""
    stream = dataclasses.replace(
      self._stream, segment_frames=frames, segment_hop=hop
    )
    return InMemoryReader(stream, self.name, version=self.version)

  def time(self, frame: int) -> float:
    """Returns the start of a frame in seconds."""
    return frame / self.header.frame_rate

  def pieces(self, first: int = 0, end: int | None = None) -> Iterator[Piece]:
    """Yields the codes of a range of frames; see `Reader.pieces`."""
    end = self.frames if end is None else min(end, self.frames)
    unit, scale = self.header.segment_frames, self._stream.scale
    step = self.header.chunk_frames
    for start in range(first // (unit or 1) * (unit or 1), end, step):
      stop = min(start + step, end)
      part = scale
      if unit and scale is not None:
        part = scale[start // unit : -(-stop // unit)]
      yield Piece(start, self._stream.codes[start:stop], part, lost=False)

  def read(self) -> Stream:
    """Returns all codes."""
    return self._stream

  def check(self) -> None:
    """Does nothing: the codes were checked when they were read."""
