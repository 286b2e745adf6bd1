"""Writes, reads and recodes `.mmdc` files with all codes in memory."""

import dataclasses
import io
import os
from typing import IO, TYPE_CHECKING

from mmdcodec.bitstream import chunk
from mmdcodec.bitstream.header import MAX_ENTRIES, Header, max_frames
from mmdcodec.bitstream.in_memory import InMemoryReader
from mmdcodec.bitstream.reader import Reader, opened
from mmdcodec.bitstream.stream import Stream
from mmdcodec.bitstream.writer import create
from mmdcodec.errors import UserError

if TYPE_CHECKING:  # takes seconds to import
  from mmdcodec.tokenizers.loaded_codec import LoadedCodec

# Long enough for the entropy coder to adapt; damage costs a whole chunk.
CHUNK_SECONDS = 30.0


def chunk_frames(
  seconds: float,
  *,
  frame_rate: float,
  codebooks: int,
  segment_frames: int = 0,
  codebook_size: int = 2,
  coding: str = "raw",
) -> int:
  """Returns the number of frames in a chunk of about `seconds`.

  Args:
    seconds: length of a chunk, more than 0.
    frame_rate: frames per second.
    codebooks: codes per frame.
    segment_frames: frames in a segment, or 0 for codecs without segments.
      Chunks consist of whole segments.
    codebook_size: entries in a codebook.
    coding: one of `CODINGS`.

  Returns:
    At least one frame or segment, and at most the limit of a chunk.
  """
  unit = segment_frames or 1
  most = max(1, max_frames(codebooks, codebook_size, coding) // unit)
  return unit * round(min(most, max(1, seconds * frame_rate / unit)))


def header_of(
  stream: Stream, *, coding: str = "raw", seconds: float = CHUNK_SECONDS
) -> Header:
  """Makes the header of a file for a stream.

  Args:
    stream: the codes of the file.
    coding: one of `CODINGS`.
    seconds: approximate length of a chunk.
  """
  header = Header(
    rate=int(stream.rate),
    channels=int(stream.channels),
    codebooks=stream.codebooks,
    codebook_size=int(stream.codebook_size),
    stride=int(stream.stride),
    chunk_frames=1,
    segment_frames=int(stream.segment_frames),
    segment_hop=int(stream.segment_hop),
    coding=coding,
    scaled=stream.scale is not None,
    model=stream.model,
  )
  return _in_chunks(header, seconds)


def _in_chunks(header: Header, seconds: float) -> Header:
  frames = chunk_frames(
    seconds,
    frame_rate=header.frame_rate,
    codebooks=header.codebooks,
    segment_frames=header.segment_frames,
    codebook_size=header.codebook_size,
    coding=header.coding,
  )
  return dataclasses.replace(header, chunk_frames=frames)


def header_for(
  codec: "LoadedCodec",
  *,
  codebooks: int | None = None,
  coding: str = "conditional",
  seconds: float = CHUNK_SECONDS,
) -> Header:
  """Makes the header of a file for codes of a codec.

  Args:
    codec: codec that makes the codes.
    codebooks: number of codebooks in the file; None means all.
    coding: one of `CODINGS`; codebooks too large for entropy coding are raw.
    seconds: approximate length of a chunk.
  """
  model = codec.model
  if model.codebook_size > MAX_ENTRIES:
    coding = "raw"
  header = Header(
    rate=codec.rate,
    channels=codec.channels,
    codebooks=codec.codebooks if codebooks is None else codebooks,
    codebook_size=model.codebook_size,
    stride=model.stride,
    chunk_frames=1,
    segment_frames=model.frames_per_chunk,
    segment_hop=model.chunk[1] if model.chunk else 0,
    coding=coding,
    scaled=model.normalize,
    model=codec.hash,
  )
  return _in_chunks(header, seconds)


def write(
  target: str | os.PathLike | IO[bytes],
  stream: Stream,
  *,
  coding: str = "raw",
  seconds: float = CHUNK_SECONDS,
) -> int:
  """Writes one stream as a `.mmdc` file.

  A path only receives the complete file, so a crash leaves no partial file.

  Args:
    target: path or binary file.
    stream: the codes to write.
    coding: one of `CODINGS`.
    seconds: approximate length of a chunk; a damaged byte costs one chunk.

  Returns:
    The number of bytes written.

  Raises:
    ValueError: the stream contradicts itself (shapes, settings, lengths).
    UserError: a code is outside its codebook, or the path cannot be written.
  """
  if stream.codes.ndim != 2:
    raise ValueError(
      f"codes must be [frames, codebooks], not {stream.codes.shape}"
    )
  header = header_of(stream, coding=coding, seconds=seconds)
  with create(target, header) as writer:
    writer.add(stream.codes, stream.scale)
    writer.close(int(stream.samples))
  return writer.bytes


def to_bytes(
  stream: Stream, *, coding: str = "raw", seconds: float = CHUNK_SECONDS
) -> bytes:
  """Like `write`, but returns the file as bytes."""
  buffer = io.BytesIO()
  write(buffer, stream, coding=coding, seconds=seconds)
  return buffer.getvalue()


def read(
  source: str | os.PathLike | IO[bytes], *, recover: bool = False
) -> Stream:
  """Reads a `.mmdc` file of any version.

  Args:
    source: path or binary file.
    recover: whether to read what is left of a damaged file; `Stream.lost` lists
      the frames that are filled in.

  Returns:
    The stream, with all checksums and ranges verified.

  Raises:
    UserError: the file cannot be read, is not a `.mmdc` file, has an unknown
      version, or is damaged.
  """
  with opened(source, recover=recover) as reader:
    return reader.read()


def drop_codebooks(
  reader: Reader | InMemoryReader,
  target: str | os.PathLike | IO[bytes],
  codebooks: int,
) -> int:
  """Writes a coarser, smaller copy of a file with only its first codebooks.

  No model is needed, and the audio is not encoded again.

  Args:
    reader: reader of the file, opened without recover.
    target: path or binary file.
    codebooks: number of codebooks to keep.

  Returns:
    The number of bytes written.

  Raises:
    UserError: the file has fewer codebooks or is damaged, or the target cannot
      be written.
  """
  if isinstance(reader, InMemoryReader):
    return recode(reader, target, codebooks, coding="raw")
  _check_codebooks(reader, codebooks)
  header = reader.header
  kept = dataclasses.replace(header, codebooks=codebooks)
  with create(target, kept) as writer:
    for data, frames in reader.payloads():
      try:
        data = chunk.keep_codebooks(data, frames, header, kept)
      except chunk.Damaged as error:
        raise UserError(f"{reader.name} is damaged: {error}.") from None
      writer.add_payload(data, frames)
    writer.close(reader.samples)
  return writer.bytes


def recode(
  reader: Reader | InMemoryReader,
  target: str | os.PathLike | IO[bytes],
  codebooks: int,
  *,
  coding: str,
  seconds: float | None = None,
) -> int:
  """Writes a copy of a file with another coding.

  Args:
    reader: reader of the file.
    target: path or binary file.
    codebooks: number of codebooks to keep.
    coding: one of `CODINGS`.
    seconds: approximate length of a chunk; None keeps the file's.

  Returns:
    The number of bytes written.

  Raises:
    UserError: the file has fewer codebooks or is damaged, or the target cannot
      be written.
  """
  _check_codebooks(reader, codebooks)
  header = reader.header
  if seconds is None:
    seconds = header.chunk_frames / header.frame_rate
    if isinstance(reader, InMemoryReader):
      seconds = CHUNK_SECONDS
  header = _in_chunks(
    dataclasses.replace(header, codebooks=codebooks, coding=coding), seconds
  )
  if wrong := header.contradiction():
    raise UserError(f"{reader.name} cannot be written so: {wrong}.")
  with create(target, header) as writer:
    for piece in reader.pieces():
      writer.add(piece.codes[:, :codebooks], piece.scale)
    writer.close(reader.samples)
  return writer.bytes


def _check_codebooks(reader: Reader | InMemoryReader, codebooks: int) -> None:
  most = reader.header.codebooks
  if not 1 <= codebooks <= most:
    raise UserError(f"codebooks is {codebooks}; {reader.name} has 1 to {most}.")
  scale = reader.read().scale if isinstance(reader, InMemoryReader) else None
  if scale is not None and len(scale) > 1:
    raise UserError(
      f"{reader.name} is of version 1, which does not say to what its scales"
      " belong; code the audio again."
    )
