"""Reads EnCodec's `.ecdc` files, as `encodec --raw` writes them.

All numbers big-endian:

  "ECDC" | version u8 = 0 | header bytes u32 | JSON | segments

The JSON has the model ("m"), samples ("al"), codebooks ("nc") and whether a
language model drove an arithmetic coder ("lm"). A segment is a scale f32, if
the model normalises, and the packed codes (`packing`), padded to a whole byte.
The 24 kHz model has one segment; the 48 kHz model has one of 1 s every 0.99 s
(Défossez et al. 2022, arXiv 2210.13438, and its released code).
"""

import os
import struct
from typing import IO

import numpy as np

from mmdcodec.bitstream.packing import packed_bytes, unpack_codes
from mmdcodec.bitstream.stream import Stream, name_of
from mmdcodec.errors import UserError
from mmdcodec.store import inputs

SUFFIX = ".ecdc"
MAGIC = b"ECDC"

_HEAD = struct.Struct(">4sBI")
_SCALE = struct.Struct(">f")
_ENTRIES = 1024
_MAX_HEADER = 1 << 16
# A day of audio has 260 MB at most.
_MAX_FILE = 1 << 30
# name -> rate, channels, stride, most codebooks, segment and hop in samples
_MODELS = {
  "encodec_24khz": (24_000, 1, 320, 32, 0, 0),
  "encodec_48khz": (48_000, 2, 320, 16, 48_000, 47_520),
}


def read(source: str | os.PathLike | IO[bytes]) -> Stream:
  """Reads the codes of a raw `.ecdc` file.

  Args:
    source: path or binary file.

  Returns:
    The stream. Its `model` is all zeros because the file identifies no weights.

  Raises:
    UserError: the file cannot be read, is not an `.ecdc` file, is truncated, or
      needs EnCodec's language model.
  """
  if not isinstance(source, str | os.PathLike):
    return _read(source.read(), name_of(source))
  return _read(inputs.read_bytes(source, most=_MAX_FILE), str(source))


def _read(data: bytes, name: str) -> Stream:
  model, samples, codebooks, at = _header(data, name)
  rate, channels, stride, _, segment, hop = _MODELS[model]
  codes, scales, place = [], [], 0
  while place < samples:
    size = min(samples - place, segment or samples)
    frames = -(-size // stride)
    count = packed_bytes(frames, codebooks, _ENTRIES)
    end = at + (_SCALE.size if segment else 0) + count
    if end > len(data):
      raise UserError(
        f"{name} is damaged: it ends {place / rate:.1f} s into its"
        f" {samples / rate:.1f} s of audio."
      )
    if segment:
      scales.append(_SCALE.unpack_from(data, at)[0])
    packed = data[end - count : end]
    try:
      piece = unpack_codes(
        packed, frames=frames, codebooks=codebooks, size=_ENTRIES
      )
    except UserError as error:
      raise UserError(f"{name}: {error}") from None
    at, place = end, place + (hop or samples)
    if place < samples:
      # If a clip ends in the overlap of its last two segments, the first of the
      # two is short. All but the last must be full here, so it is padded with
      # inaudible frames.
      short = max(0, segment // stride - frames)
      piece = np.pad(piece, ((0, short), (0, 0)), mode="edge")
    codes.append(piece)
  if at != len(data):
    raise UserError(
      f"{name} is damaged: {len(data) - at} bytes follow its codes."
    )
  scale = np.array(scales, np.float32)
  if not np.isfinite(scale).all():
    raise UserError(f"{name} is damaged: a scale is not a finite number.")
  return Stream(
    codes=np.concatenate([np.zeros((0, codebooks), np.int32), *codes]),
    samples=samples,
    rate=rate,
    channels=channels,
    codebook_size=_ENTRIES,
    stride=stride,
    scale=scale if segment else None,
    segment_frames=segment // stride,
    segment_hop=hop,
  )


def _header(data: bytes, name: str) -> tuple[str, int, int, int]:
  """Parses model, samples, codebooks, and the offset of the codes."""
  if data[:4] != MAGIC:
    raise UserError(
      f"{name} is not a {SUFFIX} file: it does not begin with {MAGIC.decode()}."
    )
  damaged = f"{name} is damaged: "
  if len(data) < _HEAD.size:
    raise UserError(damaged + "it ends within its header.")
  _, version, length = _HEAD.unpack_from(data)
  if version:
    raise UserError(
      f"{name} is a {SUFFIX} file of version {version}; only version 0 is"
      " supported."
    )
  end = _HEAD.size + length
  if length > _MAX_HEADER or end > len(data):
    raise UserError(damaged + "it ends within its header.")
  try:
    fields = inputs.parse_json(data[_HEAD.size : end].decode(), name)
    model, samples = fields["m"], fields["al"]
    codebooks, coded = fields["nc"], fields["lm"]
  except (ValueError, KeyError, TypeError, UserError):
    raise UserError(damaged + "its header is not the JSON expected.") from None
  if not isinstance(model, str) or model not in _MODELS:
    raise UserError(
      f"{name} was made by model {model!r}; supported are {', '.join(_MODELS)}."
    )
  if coded is not False:
    raise UserError(
      f"{name} is coded with EnCodec's language model, which other machines may"
      " not reproduce; write it again with `encodec` without --lm."
    )
  most = _MODELS[model][3]
  if type(codebooks) is not int or not 1 <= codebooks <= most:
    raise UserError(damaged + f"it has {codebooks} codebooks, not 1 to {most}.")
  # A code takes more than a bit, so the size of the file bounds the memory.
  if type(samples) is not int or not 0 <= samples <= 8 * 320 * len(data):
    raise UserError(damaged + f"it cannot hold {samples} samples.")
  return model, samples, codebooks, end
