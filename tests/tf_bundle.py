"""Writes checkpoints as TensorFlow does, to test their reader."""

import numpy as np

TYPES = {"float32": 1, "int64": 9}


def varint(value):
  out = b""
  while value > 127:
    out += bytes([value & 127 | 128])
    value >>= 7
  return out + bytes([value])


def field(number, value):
  """A field of a protocol buffer: a number, or bytes with their length."""
  if isinstance(value, bytes):
    return varint(number << 3 | 2) + varint(len(value)) + value
  return varint(number << 3) + varint(value)


def crc32c(data):
  """Bit by bit, unlike the reader's."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 * (crc & 1))
  return crc ^ 0xFFFFFFFF


def masked(data):
  """The checksum of data as it is stored."""
  crc = crc32c(data)
  return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(
    4, "little"
  )


def block(entries):
  """Entries by name, with shared beginnings left out, a type and checksum."""
  out, before = b"", b""
  for name, value in entries:
    shared = 0
    while shared < min(len(name), len(before)) and (
      name[shared] == before[shared]
    ):
      shared += 1
    own = name[shared:]
    out += varint(shared) + varint(len(own)) + varint(len(value)) + own + value
    before = name
  out += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
  return out, out + b"\0" + masked(out + b"\0")


def write(folder, arrays, name=""):
  """Writes the index, in two blocks, and the data."""
  data, entries = b"", [(b"", field(1, 1))]
  for key, array in sorted(arrays.items()):
    dims = b"".join(field(2, field(1, size)) for size in array.shape)
    entry = field(1, TYPES[array.dtype.name]) + field(2, dims)
    entry += field(4, len(data)) + field(5, array.nbytes)
    numbers = np.ascontiguousarray(array).tobytes()
    entry += varint(6 << 3 | 5) + masked(numbers)
    entries.append((key.encode(), entry))
    data += numbers
  index, places = b"", []
  half = len(entries) // 2
  for part in (entries[:half], entries[half:]):
    bare, stored = block(part)
    places.append((part[-1][0], varint(len(index)) + varint(len(bare))))
    index += stored
  bare, stored = block(places)
  footer = varint(0) + varint(0) + varint(len(index)) + varint(len(bare))
  index += stored + footer.ljust(40, b"\0")
  index += (0xDB4775248B80FB57).to_bytes(8, "little")
  (folder / f"{name}.index").write_bytes(index)
  (folder / f"{name}.data-00000-of-00001").write_bytes(data)
