"""Decodes files to audio, whole or in part, in constant memory."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from mmdcodec.bitstream import ecdc
from mmdcodec.bitstream.in_memory import InMemoryReader
from mmdcodec.bitstream.reader import Reader
from mmdcodec.bitstream.reader import opened as opened_mmdc
from mmdcodec.errors import UserError
from mmdcodec.store import inputs
from mmdcodec.tokenizers import piecewise
from mmdcodec.tokenizers.loaded_codec import LoadedCodec

# Seconds decoded before and after a part, because decoders have memory and may
# look ahead.
_AROUND = 4.0


@contextlib.contextmanager
def opened(
  source: Path | IO[bytes], *, recover: bool = False
) -> Iterator[Reader | InMemoryReader]:
  """Opens a `.mmdc` file or a raw `.ecdc` file of EnCodec.

  Args:
    source: path, or seekable file with a name.
    recover: whether to read what is left of a damaged file.

  Yields:
    A reader of its codes.

  Raises:
    UserError: the file cannot be read, is damaged, or holds no audio.
  """
  with contextlib.ExitStack() as stack:
    reader: Reader | InMemoryReader
    suffix = getattr(source, "suffix", "").lower()
    if suffix == ecdc.SUFFIX or begins_with(source, ecdc.MAGIC):
      name = str(source) if isinstance(source, Path) else source.name
      reader = InMemoryReader(ecdc.read(source), name)
    else:
      reader = stack.enter_context(opened_mmdc(source, recover=recover))
    if not reader.samples:
      raise UserError(f"{reader.name} holds no audio.")
    yield reader


def begins_with(source: Path | IO[bytes], magic: bytes) -> bool:
  """Returns whether a path or a seekable file begins with these bytes."""
  if not isinstance(source, os.PathLike):
    start = source.read(len(magic))
    source.seek(0)
    return start == magic
  try:
    with inputs.open_file(source) as file:
      return file.read(len(magic)) == magic
  except (UserError, OSError):
    return False  # whoever opens the file next reports the error


def check_codec(
  reader: Reader | InMemoryReader, codec: LoadedCodec, name: str
) -> Reader | InMemoryReader:
  """Checks that a codec made the codes.

  Args:
    reader: reader of the codes.
    codec: the codec to decode with.
    name: name of the codec, for messages.

  Returns:
    The reader, with the codec's segments for a file of version 1.

  Raises:
    UserError: another codec made the codes, so they would decode to noise, or
      the header contradicts this codec.
  """
  header, source = reader.header, reader.name
  if reader.version and header.model != codec.hash:
    raise UserError(
      f"{source} was made by model {header.model}, but {name} is"
      f" {codec.hash}; decode it with the model that made it (`mmdcodec info`"
      " shows the name of each)."
    )
  segments: tuple[int, int] = 0, 0
  if codec.model.chunk is not None:
    segments = codec.model.frames_per_chunk, codec.model.chunk[1]
    if reader.version == 1 and isinstance(reader, InMemoryReader):
      reader = reader.in_segments(*segments)
      header = reader.header
  found = (
    (header.rate, header.channels, header.stride, header.codebook_size),
    (header.segment_frames, header.segment_hop),
    header.scaled,
  )
  wanted = (
    (codec.rate, codec.channels, codec.stride, codec.codebook_size),
    segments,
    codec.model.normalize,
  )
  if (
    found == wanted
    and header.codebooks <= codec.codebooks
    and _scales(reader) == header.scales(reader.frames)
    and reader.samples <= codec.model.samples_of(reader.frames)
  ):
    return reader
  if not reader.version:
    raise UserError(
      f"{source} was made by a codec of {header.rate} Hz with"
      f" {header.codebooks} x {header.codebook_size} codes; {name} is a"
      " different codec."
    )
  # The hash covers the settings, so the header is damaged.
  raise UserError(f"{source} is damaged: its header does not fit its model.")


def _scales(reader: Reader | InMemoryReader) -> int:
  """Returns the number of scales in a file."""
  if not isinstance(reader, InMemoryReader):
    return reader.header.scales(reader.frames)
  scale = reader.read().scale
  return 0 if scale is None else len(scale)


def decode_part(
  codec: LoadedCodec, reader: Reader | InMemoryReader, begin: int, end: int
) -> Iterator[np.ndarray]:
  """Decodes a part of a file of any length.

  Only the chunks around the part are read. The memory of an LSTM is longer than
  `_AROUND`, so with an LSTM the result is close to that of the whole file but
  not equal.

  Args:
    codec: the codec that made the codes.
    reader: reader of the codes.
    begin: first sample.
    end: sample to stop before.

  Yields:
    float32 [samples, channels].
  """
  header, samples = reader.header, reader.samples
  first, last, offset, length = 0, reader.frames, 0, samples
  if piecewise.can_cut(codec.model) and (begin or end < samples):
    unit, hop = 1, header.stride
    around = int(_AROUND * header.frame_rate)
    if header.segment_frames:
      # Segments are coded separately and overlap with the next ones.
      unit, hop, around = header.segment_frames, header.segment_hop, 1
    first = max(0, begin // hop - around) * unit
    last = min(last, (-(-end // hop) + around) * unit)
    offset = first // unit * hop
    length = min(samples, -(-last // unit) * hop) - offset
  pieces = _pieces(reader, first, last)
  at = offset
  for x in codec.decode_blocks(pieces, length=length):
    x = _muted(x, at, reader)
    at, x = at + len(x), x[max(0, begin - at) : max(0, end - at)]
    if len(x):
      yield x
    if at >= end:
      return


def _pieces(
  reader: Reader | InMemoryReader, first: int, last: int
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
  """Yields codes and scales in the form that `decode_blocks` takes."""
  whole = not reader.header.segment_frames
  for i, piece in enumerate(reader.pieces(first, last)):
    # The scale of a whole clip is repeated in every chunk.
    yield piece.codes, None if whole and i else piece.scale


def _muted(
  x: np.ndarray, at: int, reader: Reader | InMemoryReader
) -> np.ndarray:
  """Silences audio that begins at sample `at` where codes are lost."""
  header = reader.header
  hop = header.stride
  if header.segment_frames:
    hop = header.segment_hop / header.segment_frames
  x = x.copy() if reader.lost else x
  for first, end in reader.lost:
    x[max(0, int(first * hop) - at) : max(0, int(end * hop) - at)] = 0
  return x
