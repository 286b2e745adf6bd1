"""Damaged `.mmdc` files.

Catches: damage that passes unseen, readers that crash, hang or allocate by what
a forged file says, and recovery that loses, moves or changes what was not hit.
"""

import dataclasses
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from coded_streams import lively_codes, make_stream
from damaged_streams import (
  HEAD,
  HEADER,
  make,
  places,
  run_many,
  seal,
)

from mmdcodec import bitstream
from mmdcodec.bitstream import chunk
from mmdcodec.errors import UserError


def test_random_and_forged_damage():
  """Anything but an error meant for a user, or what is left as it was.

  `soak/damaged_files.py` tries more.
  """
  trials = 500
  counts = run_many(trials, 0)
  assert counts[False, "recovered"] > 0.25 * trials
  assert counts[True, "recovered"] > 0.15 * trials
  assert counts[True, "refused"] > 0.01 * trials
  # Half of the files have two chunks only, and up to three wounds.
  assert counts[False, "empty"] < 0.2 * trials


def test_damage_does_not_make_a_reader_allocate():
  """Memory by what a file claims instead of by what is there."""
  run_many(1, 1)
  tracemalloc.start()
  run_many(18, 1)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 32e6


def test_every_byte_and_every_cut_is_guarded():
  """Damage that is taken for codes."""
  stream, data = make(frames=90, scale=np.ones(1))
  for place in range(0, len(data)):
    damaged = bytearray(data)
    damaged[place] ^= 1 << place % 8
    with pytest.raises(UserError):
      bitstream.read(io.BytesIO(bytes(damaged)))
    with pytest.raises(UserError):
      bitstream.read(io.BytesIO(data[:place]))
  with pytest.raises(UserError):
    bitstream.read(io.BytesIO(data + b"\0"))


@pytest.mark.parametrize("coding", bitstream.CODINGS)
@pytest.mark.parametrize("hit", range(5))
def test_what_was_not_hit_is_recovered(coding, hit):
  """Codes outside of the damaged chunk that are lost, moved or changed."""
  stream, data = make(coding)
  at = places(data)[hit] + HEAD + 20
  first, end = hit * 75, min(310, hit * 75 + 75)
  cut = at + 5
  for damaged in (
    data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :],
    data[:at] + data[cut:],
    data[:at] + b"12345678" + data[at:],
  ):
    with bitstream.opened(io.BytesIO(damaged), recover=True) as reader:
      back = reader.read()
      assert reader.lost == [(first, end)]
      words = f"1 of 5 chunks is lost ({first / 75:.1f} to {end / 75:.1f} s)"
      assert words in reader.damage
    assert back.samples == stream.samples and back.lost == ((first, end),)
    whole = np.r_[0:first, end:310]
    np.testing.assert_array_equal(back.codes[whole], stream.codes[whole])
    nearest = stream.codes[first - 1 if first else end]
    assert (back.codes[first:end] == nearest).all()
    with bitstream.opened(io.BytesIO(damaged), recover=True) as reader:
      pieces = list(reader.pieces(first, end))
    assert all(piece.lost for piece in pieces)
    assert (pieces[0].codes == nearest).all()


def test_a_lost_beginning_or_end():
  """A file that nothing can be had of, though most of it is there."""
  stream, data = make("conditional")
  *heads, end = places(data)
  back = bitstream.read(io.BytesIO(data[HEADER - 1 :]), recover=True)
  np.testing.assert_array_equal(back.codes, stream.codes)
  assert back.samples == stream.samples and not back.lost
  for cut in (len(data) - 1, end + 3, end):
    back = bitstream.read(io.BytesIO(data[:cut]), recover=True)
    np.testing.assert_array_equal(back.codes, stream.codes)
    assert back.samples == 310 * 320
  back = bitstream.read(io.BytesIO(data[: heads[2] + 30]), recover=True)
  np.testing.assert_array_equal(back.codes, stream.codes[:150])
  with pytest.raises(UserError, match="nothing can be recovered"):
    bitstream.read(io.BytesIO(data[10:-10]), recover=True)
  nothing = bitstream.read(io.BytesIO(data[:HEADER]), recover=True)
  assert len(nothing.codes) == nothing.samples == 0


def test_chunks_of_another_file_or_in_another_order():
  """Codes of another song, coded alike, in the middle of this one."""
  stream, data = make()
  other = make_stream(310, codes=lively_codes(310, 3, 1000, seed=1))
  other = bitstream.to_bytes(other, seconds=1.0)
  assert other[:HEADER] == data[:HEADER] and len(other) == len(data)
  heads = places(data)

  def cut(data):
    return [data[a:b] for a, b in zip(heads, heads[1:], strict=False)]

  pieces = cut(data)
  pieces[1] = cut(other)[1]
  damaged = data[:HEADER] + b"".join(pieces) + data[heads[-1] :]
  with pytest.raises(UserError, match="chunk 1 "):
    bitstream.read(io.BytesIO(damaged))
  with bitstream.opened(io.BytesIO(damaged), recover=True) as reader:
    assert reader.read().lost == ((75, 150),)
    assert "1 chunk is of another file" in reader.damage
    with pytest.raises(UserError, match="chunk 1 .* is lost"):
      bitstream.drop_codebooks(reader, io.BytesIO(), 2)
  # The other file's chunk in front of the right one.
  pieces = cut(data)
  pieces.insert(0, cut(other)[1])
  damaged = data[:HEADER] + b"".join(pieces) + data[heads[-1] :]
  back = bitstream.read(io.BytesIO(damaged), recover=True)
  np.testing.assert_array_equal(back.codes, stream.codes)
  pieces = [cut(data)[i] for i in (2, 0, 2, 4, 3, 1)]
  damaged = data[:HEADER] + b"".join(pieces) + data[heads[-1] :]
  with bitstream.opened(io.BytesIO(damaged), recover=True) as reader:
    np.testing.assert_array_equal(reader.read().codes, stream.codes)
    assert "1 chunk is there twice" in reader.damage


def test_forged_sequence_numbers_do_not_invent_audio():
  """Days of filled gaps out of one forged chunk."""
  _, data = make()
  heads = places(data)
  forged = bytearray(data[: heads[-1]])
  struct.pack_into("<I", forged, heads[3] + 4, 2**31)
  forged = seal(bytes(forged))
  with bitstream.opened(io.BytesIO(forged), recover=True) as reader:
    stream = reader.read()
    assert any("closed" in words for words in reader.damage)
  assert len(stream.codes) < 310


@pytest.mark.parametrize(
  "offset, form, value",
  [
    (8, "<I", 0),  # rate
    (8, "<I", 2**32 - 1),
    (12, "<H", 0),  # channels
    (12, "<H", 65535),
    (14, "<H", 0),  # codebooks
    (14, "<H", 65535),
    (16, "<I", 0),  # codebook size
    (16, "<I", 1),
    (16, "<I", 2**32 - 1),
    (20, "<I", 0),  # stride
    (20, "<I", 2**32 - 1),
    (24, "<I", 0),  # frames of a chunk
    (24, "<I", 2**32 - 1),
    (28, "<I", 75),  # segments without a hop
    (28, "<I", 2**32 - 1),
    (32, "<I", 5),  # a hop without segments
    (36, "<B", 3),  # coding
    (37, "<B", 2),  # scales
    (5, "<B", 1),  # flags
    (6, "<H", 51),  # header bytes
  ],
)
def test_absurd_header_with_right_checksums(offset, form, value):
  """A header that is believed because its checksum is right."""
  data = bytearray(make()[1])
  struct.pack_into(form, data, offset, value)
  for recover in (False, True):
    with pytest.raises(UserError, match="damaged"):
      bitstream.read(io.BytesIO(seal(bytes(data))), recover=recover)


def test_chunks_within_each_other_end_in_time():
  """A file that takes quadratic time to search."""
  data = bitstream.to_bytes(make_stream(10))
  seed = zlib.crc32(data[: HEADER - 4])
  head = b"\x8bMC\x96" + struct.pack("<III", 0, 2250, 20_000) + b"\0\0\0\0"
  head += struct.pack("<I", zlib.crc32(head, seed))
  # Each claims the next 20 kB, and none has the right checksum.
  small = bitstream.read(io.BytesIO(data[:HEADER] + head * 2000), recover=True)
  assert len(small.codes) == 0
  with pytest.raises(UserError, match="within each"):
    bitstream.read(io.BytesIO(data[:HEADER] + head * 50_000), recover=True)


def sealed_chunk(header: bytes, number: int, frames: int, payload: bytes):
  """A chunk with right checksums."""
  head = b"\x8bMC\x96" + struct.pack("<III", number, frames, len(payload))
  head += struct.pack("<I", zlib.crc32(payload))
  seed = zlib.crc32(header[: HEADER - 4])
  return head + struct.pack("<I", zlib.crc32(head, seed)) + payload


def test_forged_chunks_do_not_cost_the_others(monkeypatch):
  """Recovery that ends at a forgery, or reads one chunk again and again."""
  stream, data = make("conditional", 750)
  header, heads = data[:HEADER], places(data)
  pieces = [data[a:b] for a, b in zip(heads, heads[1:], strict=False)]
  forged = [
    sealed_chunk(header, number, 75, b"\xff" * 100) for number in range(10)
  ]
  # In front of each chunk one that cannot be decoded, and no trailer.
  both = b"".join(map(b"".join, zip(forged, pieces, strict=True)))
  back = bitstream.read(io.BytesIO(header + both), recover=True)
  np.testing.assert_array_equal(back.codes, stream.codes)
  assert not back.lost
  # The first seven are lost; the one from which they are filled is forged too.
  left = header + forged[7] + b"".join(pieces[8:])
  read = []
  right = chunk.from_payload
  monkeypatch.setattr(
    chunk, "from_payload", lambda *args: read.append(1) or right(*args)
  )
  with bitstream.opened(io.BytesIO(left), recover=True) as reader:
    back = reader.read()
    assert any("7.0 to 8.0 s" in words for words in reader.damage)
  np.testing.assert_array_equal(back.codes[600:], stream.codes[600:])
  assert (back.codes[:600] == stream.codes[600]).all()
  assert back.lost == ((0, 525), (525, 600))
  assert len(read) == 4


def test_version_byte_hit():
  """A file that is refused as one of version 1, though all of it is there."""
  stream, data = make()
  damaged = data[:4] + b"\x01" + data[5:]
  with pytest.raises(UserError, match="damaged"):
    bitstream.read(io.BytesIO(damaged))
  back = bitstream.read(io.BytesIO(damaged), recover=True)
  np.testing.assert_array_equal(back.codes, stream.codes)


def test_a_small_file_is_read_in_little_time(monkeypatch):
  """Two kilobytes that decode for as long as a megabyte."""
  code = {"coding": "conditional", "chunk_frames": 1 << 14}
  header = bitstream.Header(24000, 1, 1, 1 << 14, 320, **code)
  data = header.to_bytes()
  seed = zlib.crc32(data[:-4])
  payload = chunk.join([b"\0" * 4]).ljust(2100, b"\0")
  codes = []
  monkeypatch.setattr(
    chunk.entropy,
    "decode",
    lambda parts, frames, *_: codes.append(frames) or np.zeros((frames, 1)),
  )
  for frames, taken in ((1 << 14, 1 << 14), (1 << 18, 0)):
    codes.clear()
    head = chunk.Head(0, frames, len(payload), zlib.crc32(payload))
    small = data + head.to_bytes(seed) + payload
    bitstream.read(io.BytesIO(small), recover=True)
    assert sum(codes) == taken
  # 2^18 codes in a chunk are more than it may hold, and so are 2^14 in 1000 B.
  longer = dataclasses.replace(header, chunk_frames=1 << 18)
  assert "too long" in longer.contradiction()
  payload = payload[:1000]
  head = chunk.Head(0, 1 << 14, 1000, zlib.crc32(payload))
  assert chunk.parse_head(head.to_bytes(seed), header, seed) is None
  # A writer keeps to both, whatever it is asked for.
  stream = make_stream(20_000, 1, 1 << 14, codes=np.zeros((20_000, 1), int))
  asked = bitstream.header_of(stream, coding="conditional", seconds=1e9)
  assert asked.contradiction() is None and asked.chunk_frames == 1 << 14
  monkeypatch.undo()
  silent = make_stream(900, codes=np.zeros((900, 3), int))
  silent = bitstream.to_bytes(silent, coding="adaptive")
  assert len(silent) > 900 * 3 / 16
  assert not bitstream.read(io.BytesIO(silent)).codes.any()
