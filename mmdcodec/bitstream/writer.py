"""Writes a `.mmdc` file from front to back, in constant memory.

It never seeks, so a pipe works as well as a file.
"""

import contextlib
import os
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from mmdcodec.bitstream import chunk, trailer
from mmdcodec.bitstream.header import CRC, Header
from mmdcodec.errors import UserError
from mmdcodec.store import atomic, paths


class Writer:
  """Cuts codes into chunks and writes them.

  Attributes:
    header: settings of the whole file.
    frames: number of frames received.
    bytes: number of bytes written.
  """

  def __init__(self, file: IO[bytes], header: Header) -> None:
    """Writes the header.

    Args:
      file: binary, open for writing.
      header: settings of the whole file.

    Raises:
      ValueError: the header contradicts itself.
    """
    self.header, self.frames, self.bytes = header, 0, 0
    self._file, self._closed = file, False
    self._heads: list[chunk.Head] = []
    data = header.to_bytes()
    (self._seed,) = CRC.unpack(data[-4:])
    self._codes = np.zeros((0, header.codebooks), np.int32)
    self._scale = np.zeros(0, np.float32)
    self._put(data)

  def add(self, codes: np.ndarray, scale: np.ndarray | None = None) -> None:
    """Appends frames.

    Args:
      codes: integers [frames, codebooks], any number of frames; in a codec with
        segments, whole segments except in the last call.
      scale: float [scales] of a normalising codec: one per segment of the
        codes; without segments, the clip's scale, at least in the first call.

    Raises:
      ValueError: a wrong shape, or codes that are not integers.
      UserError: a code outside its codebook, or a scale that is not finite.
    """
    header, codes = self.header, np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] != header.codebooks:
      raise ValueError(
        f"codes must be [frames, {header.codebooks}], not {codes.shape}"
      )
    if codes.size and not np.issubdtype(codes.dtype, np.integer):
      raise ValueError(f"codes must be integers, not {codes.dtype}")
    size = header.codebook_size
    if codes.size and (codes.min() < 0 or codes.max() >= size):
      raise UserError(
        f"codes lie in {codes.min()}..{codes.max()}; this file's range from 0"
        f" to {size - 1}."
      )
    with np.errstate(over="ignore"):
      scale = np.ravel(() if scale is None else scale).astype(np.float32)
    if not np.isfinite(scale).all():
      raise UserError("a scale is not finite; no reader would take the file.")
    if scale.size and not header.scaled:
      raise ValueError("scales were given, but the header has none")
    if scale.size > 1 and not header.segment_frames:
      raise ValueError(
        f"{scale.size} scales were given, but without segments a clip has one"
      )
    self._scale = np.append(self._scale, scale)
    if not header.segment_frames:
      self._scale = self._scale[:1]
    self._codes = np.append(self._codes, codes.astype(np.int32), axis=0)
    self.frames += len(codes)
    while len(self._codes) >= header.chunk_frames:
      self._write_chunk(header.chunk_frames)

  def add_payload(self, data: bytes, frames: int) -> None:
    """Appends a chunk that is already coded.

    Args:
      data: payload from a file with the same settings.
      frames: number of frames, `chunk_frames` except in the last chunk.
    """
    self.frames += frames
    self._put_chunk(data, frames)

  def close(self, samples: int) -> None:
    """Writes the remaining frames and the trailer.

    Args:
      samples: length of the audio per channel.

    Raises:
      ValueError: the samples do not fit in the frames.
    """
    most = self.header.max_samples(self.frames)
    if not 0 <= samples <= most:
      raise ValueError(
        f"{samples} samples do not fit in {self.frames} frames of"
        f" {self.header.stride}"
      )
    if len(self._codes):
      self._write_chunk(len(self._codes))
    if len(self._scale) and self.header.segment_frames:
      raise ValueError(f"{len(self._scale)} scales are left over")
    self._put(trailer.to_bytes(self._heads, samples, self.header, self._seed))
    self._closed = True

  def check_closed(self) -> None:
    """Checks that the file is complete.

    Raises:
      ValueError: `close` was not called.
    """
    if not self._closed:
      raise ValueError("the file is incomplete: its writer was not closed")

  def _write_chunk(self, frames: int) -> None:
    codes, self._codes = self._codes[:frames], self._codes[frames:]
    count = self.header.scales(frames)
    if len(self._scale) < count:
      raise ValueError(
        f"{frames} frames need {count} scales, not {len(self._scale)}"
      )
    scale = self._scale[:count] if count else None
    if self.header.segment_frames:
      self._scale = self._scale[count:]
    self._put_chunk(chunk.to_payload(codes, scale, self.header), frames)

  def _put_chunk(self, data: bytes, frames: int) -> None:
    head = chunk.Head(len(self._heads), frames, len(data), zlib.crc32(data))
    self._put(head.to_bytes(self._seed) + data)
    self._heads.append(head)

  def _put(self, data: bytes) -> None:
    self._file.write(data)
    self.bytes += len(data)


@contextlib.contextmanager
def create(
  target: str | os.PathLike | IO[bytes], header: Header
) -> Iterator[Writer]:
  """Opens a writer to a path or file; the block must call its `close`.

  A path only receives the complete file, so a failure leaves no partial file.

  Args:
    target: path or binary file.
    header: settings of the whole file.

  Raises:
    UserError: the path cannot be written.
    ValueError: the block ended without a call of `close`.
  """
  if not isinstance(target, str | os.PathLike):
    writer = Writer(target, header)
    yield writer
    writer.check_closed()
    return
  path = paths.of(target)
  partial = None
  try:
    with atomic.file(path) as partial:
      with open(partial, "wb") as file:
        writer = Writer(file, header)
        yield writer
        writer.check_closed()
  except OSError as error:
    # Errors with other files, from inside the block, are raised unchanged.
    ours = (None, str(partial), str(path))
    if partial is not None and error.filename not in ours:
      raise
    raise UserError(f"{path} cannot be written: {error.strerror}.") from error
