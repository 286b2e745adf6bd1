"""Reads files of version 1, which hold all codes in one piece.

  magic "MMDC" | version u8 | flags u8 | header bytes u16 | fields | CRC-32
  scales f32 [scales] | codes, packed | CRC-32

The first CRC covers everything before it, the second the payload (scales and
codes).
"""

import struct
import zlib
from typing import IO, Any

import numpy as np

from mmdcodec.bitstream.header import CRC, LIMITS, PREFIX
from mmdcodec.bitstream.packing import packed_bytes, unpack_codes
from mmdcodec.bitstream.stream import Stream
from mmdcodec.errors import UserError

_FIELDS = struct.Struct("<IHHIIIQQ8s")
_BYTES = PREFIX.size + _FIELDS.size
_NAMES = "rate channels codebooks codebook_size stride scales frames samples"


def read(file: IO[bytes], name: str) -> Stream:
  """Reads a whole file of version 1.

  Args:
    file: file, positioned at its beginning.
    name: name of the file, for messages.

  Raises:
    UserError: the file is damaged. Nothing can be recovered, because one
      checksum covers all codes.
  """
  damaged = f"{name} is damaged: "
  fields = _read_fields(file, damaged)
  count, frames = fields["scales"], fields["frames"]
  shape = fields["codebooks"], fields["codebook_size"]
  expected = 4 * count + packed_bytes(frames, *shape)
  # Reads the actual rest, not the size that the header claims.
  rest = file.read()
  if len(rest) != expected + CRC.size:
    raise UserError(
      damaged + f"its header announces {expected + CRC.size} more bytes,"
      f" {len(rest)} follow."
    )
  payload, (crc,) = rest[:expected], CRC.unpack(rest[expected:])
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


def _read_fields(file: IO[bytes], damaged: str) -> dict[str, Any]:
  """Reads and checks the fields of the header."""
  data = file.read(_BYTES + CRC.size)
  if len(data) < _BYTES + CRC.size:
    raise UserError(damaged + "it ends within its header.")
  if zlib.crc32(data[:_BYTES]) != CRC.unpack_from(data, _BYTES)[0]:
    raise UserError(damaged + "the checksum of its header is wrong.")
  _, _, flags, length = PREFIX.unpack_from(data)
  if length != _BYTES or flags:
    raise UserError(damaged + "its header is not one of version 1.")
  values = _FIELDS.unpack_from(data, PREFIX.size)
  fields = dict(zip([*_NAMES.split(), "model"], values, strict=True))
  fields["model"] = fields["model"].hex()
  for name, (low, high) in LIMITS.items():
    if not low <= fields[name] <= high:
      raise UserError(
        damaged + f"{name} is {fields[name]}, not in [{low}, {high}]."
      )
  frames, samples, stride = (fields[n] for n in ("frames", "samples", "stride"))
  # Codecs with overlapping chunks have more frames than needed, but no codec
  # has fewer.
  if samples > frames * stride:
    raise UserError(
      damaged + f"{samples} samples do not fit in {frames} frames of {stride}."
    )
  return fields
