"""The `.mmdc` file: the codes of one piece of audio, packed, with checksums.

Version 1, all numbers little-endian:

  magic "MMDC" | version u8 | flags u8 | header bytes u16 | fields | CRC-32
  scales f32 [scales] | codes, packed | CRC-32

The first CRC covers everything before it, the second the payload (scales and
codes). The first eight bytes stay the same in every later version, so that an
old reader can name what it does not know. Bits are packed as EnCodec's `.ecdc`
does (arXiv 2210.13438, released code): frame by frame, codebook by codebook,
lowest bit first.
"""

import dataclasses
import os
import pathlib
import struct
import zlib
from typing import BinaryIO

import numpy as np

from mmdcodec.errors import UserError

MAGIC = b"MMDC"
VERSION = 1
SUFFIX = ".mmdc"

_PREFIX = struct.Struct("<4sBBH")
_FIELDS = struct.Struct("<IHHIIIQQ8s")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _PREFIX.size + _FIELDS.size
# Codes are handled in blocks of a multiple of 8, which end on a whole byte for
# any number of bits: memory stays a small multiple of the codes themselves.
_BLOCK = 1 << 15
# What a sane stream can say. A forged header with valid checksums must not
# make a reader allocate: every size below is also tied to the payload's bytes.
_LIMITS = {
  "rate": (1, 10_000_000),
  "channels": (1, 1024),
  "codebooks": (1, 4096),
  "codebook_size": (2, 1 << 24),
  "stride": (1, 1 << 20),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
  """The codes of one piece of audio and what is needed to decode them.

  Attributes:
    codes: int32 [frames, codebooks].
    samples: length of the audio, in samples per channel at `rate`.
    rate: of the codec, in Hz.
    channels: of the audio.
    codebook_size: entries of every codebook.
    stride: samples per frame.
    model: 16 hex digits that name the weights which made the codes
      (`mmdcodec.bundle.fingerprint`).
    scale: float32 [scales] gains of a normalising codec, or None.
  """

  codes: np.ndarray
  samples: int
  rate: int
  channels: int
  codebook_size: int
  stride: int
  model: str = "0" * 16
  scale: np.ndarray | None = None

  @property
  def frame_rate(self) -> float:
    """Frames per second."""
    return self.rate / self.stride

  @property
  def seconds(self) -> float:
    """Duration of the audio."""
    return self.samples / self.rate

  @property
  def codebooks(self) -> int:
    """Codes per frame."""
    return self.codes.shape[1]

  @property
  def bits_per_second(self) -> float:
    """Bits of packed codes per second of audio (no header, no scales)."""
    return self.codes.size * code_bits(self.codebook_size) / self.seconds


def code_bits(size: int) -> int:
  """Bits of one packed code: ceil(log2(size)), at least 1."""
  return max(1, int(size - 1).bit_length())


def packed_bytes(frames: int, codebooks: int, size: int) -> int:
  """Bytes that `pack_codes` makes of [frames, codebooks] codes."""
  return (frames * codebooks * code_bits(size) + 7) // 8


def pack_codes(codes: np.ndarray, size: int) -> bytes:
  """Packs codes at ceil(log2(size)) bits each, lowest bit first.

  Args:
    codes: integers [frames, codebooks] in [0, size).
    size: entries of a codebook; any number from 2 up.

  Returns:
    bytes, the last one filled with zero bits.

  Raises:
    ValueError: a code is outside [0, size).
  """
  flat = np.ascontiguousarray(codes).reshape(-1)
  if flat.size and (flat.min() < 0 or flat.max() >= size):
    raise ValueError(f"codes must lie in [0, {size})")
  shifts = np.arange(code_bits(size), dtype=np.uint32)
  parts = []
  for start in range(0, flat.size, _BLOCK):
    block = flat[start : start + _BLOCK].astype(np.uint32)
    bits = (block[:, None] >> shifts) & 1
    packed = np.packbits(bits.astype(np.uint8).ravel(), bitorder="little")
    parts.append(packed.tobytes())
  return b"".join(parts)


def unpack_codes(
  data: bytes, *, frames: int, codebooks: int, size: int
) -> np.ndarray:
  """Undoes `pack_codes`.

  Args:
    data: exactly `packed_bytes(frames, codebooks, size)` bytes.
    frames: number of frames.
    codebooks: codes per frame.
    size: entries of a codebook.

  Returns:
    int32 [frames, codebooks].

  Raises:
    UserError: the bytes are too few or too many, a code is not below `size`,
      or the bits that fill the last byte are not zero.
  """
  if len(data) != packed_bytes(frames, codebooks, size):
    raise UserError(
      f"The codes take {len(data)} bytes where {frames} frames of"
      f" {codebooks} need {packed_bytes(frames, codebooks, size)}: the data"
      " is damaged."
    )
  bits = code_bits(size)
  shifts = np.arange(bits, dtype=np.uint32)
  raw = np.frombuffer(data, np.uint8)
  codes = np.empty(frames * codebooks, np.int32)
  for start in range(0, codes.size, _BLOCK):
    count = min(_BLOCK, codes.size - start)
    first = start * bits // 8
    piece = np.unpackbits(
      raw[first : first + (count * bits + 7) // 8], bitorder="little"
    )
    if piece[count * bits :].any():
      raise UserError("The codes end in stray bits: the data is damaged.")
    piece = piece[: count * bits].reshape(count, bits).astype(np.uint32)
    codes[start : start + count] = (piece << shifts).sum(1, dtype=np.uint32)
  if codes.size and codes.max() >= size:
    raise UserError(
      f"Code {codes.max()} is outside a codebook of {size} entries: the data"
      " is damaged."
    )
  return codes.reshape(frames, codebooks)


def write(target: str | os.PathLike | BinaryIO, stream: Stream) -> int:
  """Writes one stream as a `.mmdc` file of version 1.

  A path is written aside and renamed, so a crash leaves no half file.

  Args:
    target: path or binary file.
    stream: what to write.

  Returns:
    The number of bytes written.

  Raises:
    ValueError: the stream contradicts itself (shapes, ranges, lengths).
    UserError: the path cannot be written.
  """
  data = to_bytes(stream)
  if hasattr(target, "write"):
    target.write(data)
    return len(data)
  path = pathlib.Path(target)
  aside = path.with_name(path.name + ".partial")
  try:
    aside.write_bytes(data)
    os.replace(aside, path)
  except OSError as error:
    aside.unlink(missing_ok=True)
    raise UserError(f"{path} cannot be written: {error.strerror}.") from error
  return len(data)


def read(source: str | os.PathLike | BinaryIO) -> Stream:
  """Reads a `.mmdc` file.

  Args:
    source: path or binary file.

  Returns:
    The stream, with every checksum and range verified.

  Raises:
    UserError: the file cannot be read, is no `.mmdc` file, has an unknown
      version, or is damaged.
  """
  if hasattr(source, "read"):
    return _read(source, "the stream")
  try:
    with open(source, "rb") as file:
      return _read(file, os.fspath(source))
  except FileNotFoundError as error:
    raise UserError(f"There is no file {os.fspath(source)}.") from error
  except OSError as error:
    raise UserError(
      f"{os.fspath(source)} cannot be read: {error.strerror}."
    ) from error


def to_bytes(stream: Stream) -> bytes:
  """The whole file as bytes; see `write`."""
  codes = np.asarray(stream.codes)
  if codes.ndim != 2:
    raise ValueError(f"codes must be [frames, codebooks], not {codes.shape}")
  model = bytes.fromhex(stream.model)
  if len(model) != 8:
    raise ValueError(f"model must be 16 hex digits, not {stream.model!r}")
  scale = np.zeros(0, "<f4")
  if stream.scale is not None:
    scale = np.asarray(stream.scale, "<f4").reshape(-1)
  fields = dict(
    rate=int(stream.rate),
    channels=int(stream.channels),
    codebooks=codes.shape[1],
    codebook_size=int(stream.codebook_size),
    stride=int(stream.stride),
    scales=scale.size,
    frames=codes.shape[0],
    samples=int(stream.samples),
    model=model,
  )
  wrong = _contradiction(fields)
  if wrong:
    raise ValueError(wrong)
  header = _PREFIX.pack(MAGIC, VERSION, 0, _HEADER_BYTES)
  header += _FIELDS.pack(*fields.values())
  payload = scale.tobytes() + pack_codes(codes, stream.codebook_size)
  return b"".join(
    [
      header,
      _CRC.pack(zlib.crc32(header)),
      payload,
      _CRC.pack(zlib.crc32(payload)),
    ]
  )


def _contradiction(fields: dict) -> str | None:
  """The first thing in a header that cannot be, or None."""
  for name, (low, high) in _LIMITS.items():
    if not low <= fields[name] <= high:
      return f"{name} is {fields[name]}, not in [{low}, {high}]"
  frames, samples, stride = (
    fields[name] for name in ("frames", "samples", "stride")
  )
  # Codecs that work in overlapping chunks have more frames than the samples
  # need, but no codec has fewer.
  if samples > frames * stride:
    return f"{samples} samples do not fit in {frames} frames of {stride}"
  return None


def _read(file: BinaryIO, name: str) -> Stream:
  prefix = file.read(_PREFIX.size)
  if prefix[:4] != MAGIC:
    raise UserError(f"{name} is not a {SUFFIX} file (it does not start so).")
  damaged = f"{name} is damaged: "
  if len(prefix) < _PREFIX.size:
    raise UserError(damaged + "it ends within its header.")
  _, version, flags, length = _PREFIX.unpack(prefix)
  if version != VERSION:
    raise UserError(
      f"{name} is a {SUFFIX} file of version {version}; this mmdcodec reads"
      f" version {VERSION}: a newer mmdcodec may read it."
    )
  fields = _read_fields(file, prefix, length, flags, damaged)
  count, frames = fields["scales"], fields["frames"]
  shape = fields["codebooks"], fields["codebook_size"]
  expected = 4 * count + packed_bytes(frames, *shape)
  # The rest is read as it is, never as the header says it were.
  rest = file.read()
  if len(rest) != expected + _CRC.size:
    raise UserError(
      damaged + f"its header announces {expected + _CRC.size} more bytes,"
      f" {len(rest)} follow."
    )
  payload, (crc,) = rest[:expected], _CRC.unpack(rest[expected:])
  if zlib.crc32(payload) != crc:
    raise UserError(damaged + "the checksum of its codes is wrong.")
  scale = np.frombuffer(payload, "<f4", count).astype(np.float32)
  if not np.isfinite(scale).all():
    raise UserError(damaged + "a scale is not a finite number.")
  try:
    codes = unpack_codes(
      payload[4 * count :], frames=frames, codebooks=shape[0], size=shape[1]
    )
  except UserError as error:
    raise UserError(damaged + str(error)) from error
  kept = ("samples", "rate", "channels", "codebook_size", "stride", "model")
  return Stream(
    codes=codes,
    scale=scale if count else None,
    **{key: fields[key] for key in kept},
  )


def _read_fields(file, prefix, length, flags, damaged) -> dict:
  """Reads, checks and names the fields of a version 1 header."""
  rest = file.read(_FIELDS.size + _CRC.size)
  if len(rest) < _FIELDS.size + _CRC.size:
    raise UserError(damaged + "it ends within its header.")
  (crc,) = _CRC.unpack(rest[_FIELDS.size :])
  if zlib.crc32(prefix + rest[: _FIELDS.size]) != crc:
    raise UserError(damaged + "the checksum of its header is wrong.")
  if length != _HEADER_BYTES or flags:
    raise UserError(damaged + "its header is not one of version 1.")
  names = "rate channels codebooks codebook_size stride scales frames samples"
  values = _FIELDS.unpack(rest[: _FIELDS.size])
  fields = dict(zip([*names.split(), "model"], values, strict=True))
  fields["model"] = fields["model"].hex()
  wrong = _contradiction(fields)
  if wrong:
    raise UserError(damaged + wrong + ".")
  return fields
