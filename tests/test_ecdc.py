"""EnCodec's raw `.ecdc` files.

Catches: bytes read in another order than EnCodec's code writes them, segments
of the 48 kHz model cut at the wrong frame, files that need a language model
taken for raw ones, and damage that crashes or allocates.
"""

import io
import json
import pathlib
import struct

import numpy as np
import pytest
from coded_streams import slow_bits

from mmdcodec import bitstream
from mmdcodec.bitstream import ecdc
from mmdcodec.errors import UserError

GOLDEN = json.loads(
  (pathlib.Path(__file__).parent / "data/golden_ecdc.json").read_text()
)


def header(**fields) -> bytes:
  text = json.dumps(fields).encode()
  return b"ECDC" + struct.pack(">BI", 0, len(text)) + text


def make(model, samples, codebooks, segments, scales=()) -> bytes:
  """A file as EnCodec's `compress_to_file` lays it out."""
  data = header(m=model, al=samples, nc=codebooks, lm=False)
  for i, codes in enumerate(segments):
    if len(scales):
      data += struct.pack(">f", scales[i])
    data += slow_bits(codes, 10)
  return data


def codes_of(frames, codebooks, seed=0):
  return np.random.default_rng(seed).integers(0, 1024, (frames, codebooks))


@pytest.mark.parametrize("case", GOLDEN["bitpacker"], ids=lambda c: c["bits"])
def test_packing_is_encodecs(case):
  """Bits in another order than EnCodec's packer puts them."""
  tokens, size = np.array(case["tokens"])[:, None], 1 << case["bits"]
  data = bytes.fromhex(case["hex"])
  assert bitstream.pack_codes(tokens, size) == data
  back = bitstream.unpack_codes(
    data, frames=len(tokens), codebooks=1, size=size
  )
  np.testing.assert_array_equal(back, tokens)


def test_header_of_encodec_itself():
  """A header that EnCodec wrote is not understood."""
  data = bytes.fromhex(GOLDEN["ecdc_header_hex"])
  assert data == header(m="encodec_24khz", al=240000, nc=8, lm=False)
  codes = codes_of(750, 8)
  stream = ecdc.read(io.BytesIO(data + slow_bits(codes, 10)))
  np.testing.assert_array_equal(stream.codes, codes)
  assert (stream.samples, stream.rate, stream.channels) == (240000, 24000, 1)
  assert stream.scale is None


@pytest.mark.parametrize(
  "codebooks, size", [(2, 3817), (4, 7567), (8, 15067), (16, 30068)]
)
def test_size_at_24_khz(codebooks, size):
  """The known size of 20 s does not come out."""
  codes = codes_of(1500, codebooks)
  data = make("encodec_24khz", 480000, codebooks, [codes])
  assert len(data) == size
  np.testing.assert_array_equal(ecdc.read(io.BytesIO(data)).codes, codes)


@pytest.mark.parametrize(
  "codebooks, size", [(2, 5814), (4, 11496), (8, 22861), (16, 45592)]
)
def test_size_and_segments_at_48_khz(codebooks, size):
  """The known size of 15 s, and a segment or its scale in the wrong place."""
  lengths = [min(48000, 720000 - at) for at in range(0, 720000, 47520)]
  segments = [
    codes_of(-(-length // 320), codebooks, i)
    for i, length in enumerate(lengths)
  ]
  scales = np.linspace(0.1, 1, len(segments), dtype=np.float32)
  data = make("encodec_48khz", 720000, codebooks, segments, scales)
  assert len(data) == size
  stream = ecdc.read(io.BytesIO(data))
  np.testing.assert_array_equal(stream.codes, np.concatenate(segments))
  np.testing.assert_array_equal(stream.scale, scales)
  assert (stream.segment_frames, stream.segment_hop) == (150, 47520)


def test_a_clip_that_ends_in_an_overlap():
  """The last but one segment is not full, and all after it move."""
  segments = [codes_of(149, 2), codes_of(1, 2, 1)]
  data = make("encodec_48khz", 47600, 2, segments, [0.5, 0.25])
  codes = ecdc.read(io.BytesIO(data)).codes
  assert codes.shape == (151, 2)
  np.testing.assert_array_equal(codes[:149], segments[0])
  np.testing.assert_array_equal(codes[150:], segments[1])


@pytest.mark.parametrize(
  "data, words",
  [
    (header(m="encodec_24khz", al=320, nc=2, lm=True), "language model"),
    (header(m="encodec_16khz", al=320, nc=2, lm=False), "supported are"),
    (header(m="encodec_24khz", al=320, nc=33, lm=False), "33 codebooks"),
    (header(m="encodec_24khz", al=10**15, nc=2, lm=False), "cannot hold"),
    (header(m="encodec_24khz", al=-1, nc=2, lm=False), "cannot hold"),
    (header(m="encodec_24khz", al=640, nc=2, lm=False) + b"abc", "ends 0.0 s"),
    (header(m="encodec_24khz", al=1, nc=1, lm=False) + b"\0" * 9, "follow"),
    (header(m="encodec_24khz", nc=2, lm=False), "JSON"),
    (header(m=["a"], al=1, nc=2, lm=False), "supported are"),
    (b"ECDC\0\0\0\0\x02[]", "JSON"),
    (b"ECDC\0\0\0\0\x02{", "within its header"),
    (b"ECDC\0\xff\xff\xff\xff{}", "within its header"),
    (b"ECDC\x01\0\0\0\0", "version 1"),
    (b"ECDC\0", "within its header"),
    (b"RIFF", "not a .ecdc"),
  ],
)
def test_what_is_wrong_is_said(data, words):
  """A file that cannot be read crashes, or is read as something else."""
  with pytest.raises(UserError, match=words):
    ecdc.read(io.BytesIO(data))
