"""Packs codes as plain bits.

The order is that of EnCodec's `.ecdc` files (arXiv 2210.13438, released code):
frame by frame, codebook by codebook, lowest bit first.
"""

import numpy as np

from mmdcodec.errors import UserError

# Codes per block. A multiple of 8 ends on a whole byte for any number of bits,
# and blocks keep the memory a small multiple of the codes.
_BLOCK = 1 << 15


def code_bits(size: int) -> int:
  """Returns the bits of one packed code: ceil(log2(size)), at least 1."""
  return max(1, int(size - 1).bit_length())


def packed_bytes(frames: int, codebooks: int, size: int) -> int:
  """Returns the number of bytes of packed codes [frames, codebooks]."""
  return (frames * codebooks * code_bits(size) + 7) // 8


def pack_codes(codes: np.ndarray, size: int) -> bytes:
  """Packs codes at ceil(log2(size)) bits each, lowest bit first.

  Args:
    codes: integers [frames, codebooks] in [0, size).
    size: entries in a codebook, at least 2.

  Returns:
    The packed bytes; the last one is padded with zero bits.

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
  """Inverse of `pack_codes`.

  Args:
    data: exactly `packed_bytes(frames, codebooks, size)` bytes.
    frames: number of frames.
    codebooks: codes per frame.
    size: entries in a codebook.

  Returns:
    int32 [frames, codebooks].

  Raises:
    UserError: the bytes are too few or too many, a code is not below `size`,
      or the padding of the last byte is not zero.
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
