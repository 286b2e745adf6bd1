"""Reads the tensors of a TensorFlow checkpoint with NumPy, without TensorFlow.

A checkpoint of the second version ("tensor bundle") has two kinds of files:

  NAME.index                 a table from names to places
  NAME.data-00000-of-00001   numbers, one tensor after the other

The index is a table of LevelDB: blocks of entries sorted by name, where a name
leaves out what it shares with the one before. Its last 48 bytes say where the
block of blocks is. A value is a small protocol buffer: type, shape, file,
offset and size of a tensor, and a checksum. Only numbers in one file are read,
in little-endian order, as TensorFlow writes them on all usual machines.
"""

import math
import pathlib
from collections.abc import Iterator

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.store import inputs

INDEX = ".index"
DATA = ".data-00000-of-00001"
# Last bytes of a table.
_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER = 48
# Types of tensors in TensorFlow's `DataType`.
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 10: "?"}
# Bytes of the largest index and of all numbers.
_MOST_INDEX, _MOST_DATA = 1 << 24, 1 << 34


class _Damaged(Exception):
  """What is wrong with a file."""


def find(folder: pathlib.Path) -> pathlib.Path:
  """Returns the path of the index in a folder with one checkpoint.

  Raises:
    UserError: there is none, or several.
  """
  found = sorted(folder.glob(f"*{INDEX}"))
  if len(found) == 1:
    return found[0]
  raise UserError(
    f"{folder} holds {len(found)} indices of TensorFlow checkpoints"
    f" (*{INDEX}); expected one."
  )


def read(
  index: pathlib.Path, without: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
  """Reads the tensors of a checkpoint.

  Args:
    index: path of its index.
    without: ends of names of tensors to leave out, such as an optimizer's.

  Returns:
    Tensors by name.

  Raises:
    UserError: a file is missing or damaged, or holds other types than numbers.
  """
  table = inputs.read_bytes(index, most=_MOST_INDEX)
  data_file = index.with_name(index.name.removesuffix(INDEX) + DATA)
  data = inputs.read_bytes(data_file, most=_MOST_DATA)
  try:
    entries = {
      name.decode(): value
      for place in _values(table, _blocks_at(table))
      for name, value in _entries(_block(table, *_place(place)))
    }
    entries.pop("", None)
    if not entries:
      raise _Damaged("it names no tensor")
    return {
      name: _tensor(name, entry, data)
      for name, entry in entries.items()
      if not name.endswith(without)
    }
  except (_Damaged, IndexError, UnicodeDecodeError) as error:
    reason = str(error) if isinstance(error, _Damaged) else "it ends early"
    raise UserError(
      f"{index} can't be read: {reason}; get the files of the checkpoint again."
    ) from None


def _blocks_at(table: bytes) -> tuple[int, int]:
  """Place of the block that lists the others."""
  if len(table) < _FOOTER or table[-8:] != _MAGIC:
    raise _Damaged("it is no index of a TensorFlow checkpoint")
  footer, at = table[-_FOOTER:], 0
  # Before it is the place of a block of filters, which is empty.
  numbers = []
  for _ in range(4):
    number, at = _varint(footer, at)
    numbers.append(number)
  return numbers[2], numbers[3]


def _values(table: bytes, place: tuple[int, int]) -> Iterator[bytes]:
  for _, value in _entries(_block(table, *place)):
    yield value


def _place(value: bytes) -> tuple[int, int]:
  """Offset and size of a block."""
  offset, at = _varint(value, 0)
  return offset, _varint(value, at)[0]


def _block(table: bytes, offset: int, size: int) -> bytes:
  """A block, after its checksum is checked."""
  end = offset + size
  if end + 5 > len(table) - _FOOTER:
    raise _Damaged("it ends early")
  kind, check = table[end], int.from_bytes(table[end + 1 : end + 5], "little")
  if kind:
    raise _Damaged("it is compressed, which TensorFlow never does")
  if _masked(_crc32c(table[offset : end + 1])) != check:
    raise _Damaged("a checksum is wrong")
  return table[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Names and values of a block."""
  restarts = int.from_bytes(block[-4:], "little")
  end, at, name = len(block) - 4 - 4 * restarts, 0, b""
  if end < 0:
    raise _Damaged("it ends early")
  while at < end:
    shared, at = _varint(block, at)
    own, at = _varint(block, at)
    size, at = _varint(block, at)
    if shared > len(name) or at + own + size > end:
      raise _Damaged("an entry is longer than its block")
    name = name[:shared] + block[at : at + own]
    at += own
    yield name, block[at : at + size]
    at += size


def _tensor(name: str, entry: bytes, data: bytes) -> np.ndarray:
  """Reads one tensor."""
  fields = dict(_fields(entry))
  kind, file = fields.get(1, 0), fields.get(3, 0)
  offset, size, shape = fields.get(4, 0), fields.get(5, 0), fields.get(2, b"")
  if not isinstance(shape, bytes) or 7 in fields or file:
    raise _Damaged(f"{name} is in several parts, which is not supported")
  if not isinstance(kind, int) or kind not in _DTYPES:
    raise _Damaged(f"{name} is of a type that TensorFlow has for no number")
  dims: list[int] = []
  for number, dim in _fields(shape):
    size_of = dict(_fields(dim)).get(1, 0) if isinstance(dim, bytes) else -1
    if number == 2:
      dims.append(size_of if isinstance(size_of, int) else -1)
  dtype = np.dtype(_DTYPES[kind])
  if not isinstance(offset, int) or not isinstance(size, int):
    raise _Damaged(f"the place of {name} is no number")
  count = math.prod(dims)
  if min(dims, default=0) < 0 or count * dtype.itemsize != size:
    raise _Damaged(f"{name} has another size than its shape")
  if offset + size > len(data):
    raise _Damaged(f"{name} lies beyond the end of its {DATA} file")
  check = fields.get(6)
  if isinstance(check, bytes):
    found = _masked(_crc32c(data[offset : offset + size]))
    if found != int.from_bytes(check, "little"):
      raise _Damaged(f"the checksum of {name} is wrong")
  return np.frombuffer(data, dtype, count, offset).reshape(dims).copy()


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
  """Numbers and values of the fields of a protocol buffer."""
  at = 0
  while at < len(message):
    tag, at = _varint(message, at)
    number, wire = tag >> 3, tag & 7
    if wire == 0:
      value, at = _varint(message, at)
      yield number, value
    elif wire == 2:
      size, at = _varint(message, at)
      if at + size > len(message):
        raise _Damaged("a field is longer than its message")
      yield number, message[at : at + size]
      at += size
    elif wire in (1, 5):
      size = 8 if wire == 1 else 4
      yield number, message[at : at + size]
      at += size
    else:
      raise _Damaged(f"a field is of type {wire}, which does not exist")


def _varint(data: bytes, at: int) -> tuple[int, int]:
  """A number of 7 bits a byte, and the place after it."""
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 127) << shift
    at, shift = at + 1, shift + 7
    if byte < 128:
      return value, at
    if shift > 63:
      raise _Damaged("a number has more than 64 bits")


def _crc32c_table() -> list[int]:
  table = []
  for byte in range(256):
    for _ in range(8):
      byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    table.append(byte)
  return table


_CRC32C = _crc32c_table()


def _crc32c(data: bytes) -> int:
  """The checksum of Castagnoli, as of iSCSI."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 255]
  return crc ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
  """LevelDB stores checksums so, because of those in stored data."""
  rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
  return (rotated + 0xA282EAD8) & 0xFFFFFFFF
