"""The `.mmdc` container.

Catches: a layout that drifts away from version 2, version 1 no longer read,
chunks or scales that come back in another place, codebooks dropped wrongly, and
a half file left behind. Damage is the matter of `test_bitstream_damage`.
"""

import dataclasses
import io
import struct
import zlib

import numpy as np
import pytest
from coded_streams import lively_codes, make_stream, version1

from mmdcodec import bitstream
from mmdcodec.bitstream import chunk
from mmdcodec.errors import UserError

NAMES = "samples rate channels codebook_size stride model".split()


def crc(data: bytes, seed: int = 0) -> bytes:
  return struct.pack("<I", zlib.crc32(data, seed))


@pytest.mark.parametrize("coding", bitstream.CODINGS)
@pytest.mark.parametrize("frames", [0, 1, 37, 200])
def test_round_trip_through_a_file(tmp_path, coding, frames):
  """Codes or fields that come back changed, or a file left aside."""
  stream = make_stream(frames, samples=max(0, frames * 320 - 7))
  path = tmp_path / "a.mmdc"
  size = bitstream.write(path, stream, coding=coding, seconds=1.0)
  assert path.stat().st_size == size
  assert [p.name for p in tmp_path.iterdir()] == ["a.mmdc"]
  data = bitstream.to_bytes(stream, coding=coding, seconds=1.0)
  assert path.read_bytes() == data
  for source in (path, io.BytesIO(data)):
    for recover in (False, True):
      back = bitstream.read(source, recover=recover)
      np.testing.assert_array_equal(back.codes, stream.codes)
      assert back.codes.dtype == np.int32 and back.scale is None
      assert all(getattr(back, n) == getattr(stream, n) for n in NAMES)
      assert not back.lost
  assert back.frame_rate == 75
  assert back.seconds == pytest.approx(stream.samples / 24000)


def test_layout_of_version_2_is_frozen():
  """Files written today that a later version cannot read."""
  stream = bitstream.Stream(
    codes=np.array([[1, 2], [3, 0], [2, 2]]),
    samples=8,
    rate=6,
    channels=2,
    codebook_size=4,
    stride=3,
    model="6d" * 8,
    scale=np.array([1.0]),
  )
  header = b"MMDC\x02\x00" + struct.pack("<H", 46)
  header += struct.pack("<IHHIIIIIBB", 6, 2, 2, 4, 3, 2, 0, 0, 0, 1) + b"m" * 8
  seed = zlib.crc32(header)
  header += crc(header)
  one = struct.pack("<f", 1.0)
  expected, sizes = header, b""
  for i, (frames, codes) in enumerate([(2, 0b00_11_10_01), (1, 0b00_00_10_10)]):
    payload = one + bytes([codes])
    head = b"\x8bMC\x96" + struct.pack("<III", i, frames, 5) + crc(payload)
    expected += head + crc(head, seed) + payload
    sizes += struct.pack("<I", 5) + crc(payload)
  trailer = sizes + struct.pack("<QQ", 3, 8) + header
  trailer += struct.pack("<I", len(trailer) + 12)
  expected += trailer + crc(trailer, seed) + b"\x8bME\x96"
  # 1 s is 2 frames.
  assert bitstream.to_bytes(stream, seconds=1.0) == expected


def test_version_1_is_still_read():
  """Files of the first release that nobody can decode any more."""
  for scale in ((), (0.5,), (0.5, 2.0)):
    stream = make_stream(9000, 2)
    data = version1(stream, scale)
    back = bitstream.read(io.BytesIO(data))
    np.testing.assert_array_equal(back.codes, stream.codes)
    assert all(getattr(back, n) == getattr(stream, n) for n in NAMES)
    if scale:
      np.testing.assert_array_equal(back.scale, np.float32(scale))
    with bitstream.opened(io.BytesIO(data)) as reader:
      assert reader.version == 1
      pieces = list(reader.pieces(5, 8900))
      together = np.concatenate([piece.codes for piece in pieces])
    np.testing.assert_array_equal(together, stream.codes[5:8900])
  data = bytearray(version1(make_stream(5), (1.0,)))
  for place in range(len(data)):
    damaged = bytes([*data[:place], data[place] ^ 4, *data[place + 1 :]])
    with pytest.raises(UserError):
      bitstream.read(io.BytesIO(damaged))
    with pytest.raises(UserError):
      bitstream.read(io.BytesIO(damaged), recover=True)


@pytest.mark.parametrize("coding", bitstream.CODINGS)
def test_any_range_is_read_without_the_rest(coding):
  """Seeking that ends in the wrong frame, or that reads the whole file."""
  codes = lively_codes(1000, 2, 50)
  stream = make_stream(1000, 2, 50, codes=codes)
  data = bitstream.to_bytes(stream, coding=coding, seconds=1.0)
  reads = []

  class Watched(io.BytesIO):
    def read(self, *args):
      out = super().read(*args)
      reads.append(len(out))
      return out

  for first, end in ((0, 1), (74, 76), (400, 520), (990, 5000), (30, None)):
    with bitstream.opened(Watched(data)) as reader:
      reads.clear()
      pieces = list(reader.pieces(first, end))
    assert pieces[0].first == first
    together = np.concatenate([piece.codes for piece in pieces])
    np.testing.assert_array_equal(together, codes[first:end])
    if end == 76:
      assert sum(reads) < len(data) / 5


def test_segments_and_their_scales():
  """A chunk that begins inside a segment, or scales of another one."""
  scale = np.arange(1, 8, dtype=np.float32)
  stream = make_stream(
    6 * 4 + 3, 2, scale=scale, segment_frames=4, segment_hop=1270, samples=7800
  )
  data = bitstream.to_bytes(stream, seconds=0.12)
  back = bitstream.read(io.BytesIO(data))
  np.testing.assert_array_equal(back.scale, scale)
  np.testing.assert_array_equal(back.codes, stream.codes)
  assert (back.segment_frames, back.segment_hop) == (4, 1270)
  with bitstream.opened(io.BytesIO(data)) as reader:
    assert reader.header.chunk_frames == 8
    piece = next(reader.pieces(13))
    assert piece.first == 12
    np.testing.assert_array_equal(piece.scale, [4])
    np.testing.assert_array_equal(piece.codes, stream.codes[12:16])


def test_one_scale_stands_in_every_chunk():
  """A normalised clip that seeking decodes at another loudness."""
  stream = make_stream(200, scale=np.array([0.3]))
  data = bitstream.to_bytes(stream, seconds=1.0)
  with bitstream.opened(io.BytesIO(data)) as reader:
    for piece in reader.pieces(90):
      np.testing.assert_array_equal(piece.scale, np.float32([0.3]))
  np.testing.assert_array_equal(
    bitstream.read(io.BytesIO(data)).scale, np.float32([0.3])
  )


def test_blocks_of_any_size_make_the_same_file():
  """Batches or blocks that change the bytes, or a pipe that is sought in."""
  stream = make_stream(300, codes=lively_codes(300, 3, 1000))
  header = bitstream.header_of(stream, coding="conditional", seconds=1.0)
  wanted = bitstream.to_bytes(stream, coding="conditional", seconds=1.0)

  class Pipe:
    def __init__(self):
      self.data = b""

    def write(self, data):
      self.data += data

  for cuts in ([], [1, 2, 299], [75, 150], [74, 76, 200]):
    pipe = Pipe()
    with bitstream.create(pipe, header) as writer:
      for part in np.split(stream.codes, cuts):
        writer.add(part)
      writer.close(stream.samples)
    assert pipe.data == wanted
    assert writer.bytes == len(wanted) and writer.frames == 300


@pytest.mark.parametrize("coding", bitstream.CODINGS)
def test_codebooks_are_dropped_without_decoding(coding, monkeypatch):
  """Other codes than those of the first codebooks, or a need to decode."""
  stream = make_stream(200, 4, 64, codes=lively_codes(200, 4, 64))
  options = dict(coding=coding, seconds=1.0)
  data = bitstream.to_bytes(stream, **options)
  fewer = dataclasses.replace(stream, codes=stream.codes[:, :3])
  if coding != "raw":
    monkeypatch.setattr(chunk.entropy, "decode", None)
  out = io.BytesIO()
  with bitstream.opened(io.BytesIO(data)) as reader:
    bitstream.drop_codebooks(reader, out, 3)
  monkeypatch.undo()
  assert out.getvalue() == bitstream.to_bytes(fewer, **options)
  with bitstream.opened(io.BytesIO(data)) as reader:
    for wrong in (0, 5):
      with pytest.raises(UserError, match="1 to 4"):
        bitstream.drop_codebooks(reader, out, wrong)


def test_contradicting_stream_is_not_written(tmp_path):
  """A file that no reader takes."""
  stream = make_stream()
  for change in (
    dict(samples=37 * 320 + 1),
    dict(rate=0),
    dict(codes=stream.codes[0]),
    dict(codes=np.minimum(stream.codes + 0.5, 1.5)),
    dict(model="abcd"),
    dict(model="not hexadecimal!"),
    dict(segment_frames=4),
    dict(scale=np.ones(1), segment_frames=4, segment_hop=1200),
  ):
    fields = {**vars(stream), **change}
    with pytest.raises(ValueError):
      bitstream.write(tmp_path / "a.mmdc", bitstream.Stream(**fields))
  for wrong in (-1, stream.codebook_size):
    codes = np.full_like(stream.codes, wrong)
    with pytest.raises(UserError, match=rf"{wrong}\.\.{wrong}; this file's"):
      bitstream.write(
        tmp_path / "a.mmdc", bitstream.Stream(**vars(stream) | {"codes": codes})
      )
  for scale in (np.nan, np.inf, 1e39):
    fields = {**vars(stream), "scale": np.array([scale])}
    with pytest.raises(UserError, match="a scale is not finite"):
      bitstream.write(tmp_path / "a.mmdc", bitstream.Stream(**fields))
  assert not list(tmp_path.iterdir())
  with pytest.raises(UserError, match="cannot be written"):
    bitstream.write(tmp_path / "no" / "a.mmdc", stream)


def test_a_chunk_is_of_the_length_asked_for():
  """Chunks that hold more codes than a reader takes, or cut a segment."""
  frames = bitstream.chunk_frames
  assert frames(30, frame_rate=75, codebooks=8) == 2250
  assert frames(1e-9, frame_rate=75, codebooks=8) == 1
  assert frames(1e9, frame_rate=75, codebooks=8) == (1 << 20) // 8
  assert frames(2, frame_rate=75, codebooks=8, segment_frames=40) == 160


def test_messages_say_what_is_wrong(tmp_path):
  """A user who is not told which file, or what to do."""
  data = bitstream.to_bytes(make_stream())
  path = tmp_path / "a.mmdc"
  for content, words in (
    (b"", "not a .mmdc file"),
    (b"RIFF....WAVE", "not a .mmdc file"),
    (data[:6], "ends within its header"),
    (data[:4] + b"\x03" + data[5:], "version 3.*newer"),
    (data[:40], "ends within its header"),
    (data[:-9], "--recover"),
  ):
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
      bitstream.read(path)
    assert str(path) in str(caught.value)
  with pytest.raises(UserError, match="no such file"):
    bitstream.read(tmp_path / "missing.mmdc")
  with pytest.raises(UserError, match="is a folder"):
    bitstream.read(tmp_path)


def test_an_unfinished_file_is_no_file(tmp_path):
  """Half a file in place of a whole one, or one of the user's written over."""
  stream = make_stream()
  path, mine = tmp_path / "a.mmdc", tmp_path / "a.mmdc.partial"
  mine.write_bytes(b"precious")
  bitstream.write(path, stream)
  before = path.read_bytes()
  for target in (path, io.BytesIO()):
    with pytest.raises(ValueError, match="not closed"):
      with bitstream.create(target, bitstream.header_of(stream)) as writer:
        writer.add(stream.codes)
  assert path.read_bytes() == before and mine.read_bytes() == b"precious"
  assert len(list(tmp_path.iterdir())) == 2


def test_scales_without_segments_are_not_dropped():
  """A file of version 1 written again with one of its scales."""
  data = version1(make_stream(50), (0.5, 2.0))
  with pytest.raises(ValueError, match="2 scales"):
    bitstream.to_bytes(bitstream.read(io.BytesIO(data)))


def test_rates_of_segments_and_of_nothing():
  """Two answers to how many frames a second has, or a division by zero."""
  stream = make_stream(
    600, 1, segment_frames=150, segment_hop=47520, rate=48000
  )
  assert stream.frame_rate == bitstream.header_of(stream).frame_rate
  assert stream.frame_rate == pytest.approx(150 / 0.99)
  assert make_stream(0, samples=0).bits_per_second == 0
