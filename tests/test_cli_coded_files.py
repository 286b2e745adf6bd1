"""Coded files that the commands refuse, and the names they give.

Catches: tracebacks of forged files and absurd numbers, two sources that become
one file, and messages that name the wrong thing. Nothing is compiled here.
"""

import io
import sys
import types
from pathlib import Path

import damaged_streams
import numpy as np
import pytest
from coded_streams import lively_codes, make_stream, version1
from test_ecdc import make as make_ecdc

import mmdcodec
from mmdcodec import bitstream, formatting
from mmdcodec.audio import block_io
from mmdcodec.bitstream import decoding
from mmdcodec.cli import batch
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.models import codec as codec_model


class Pipe(io.TextIOWrapper):
  """stdin or stdout that cannot be sought in."""

  def __init__(self, data=b""):
    buffer = io.BytesIO(data)
    buffer.seekable = lambda: False
    super().__init__(buffer)


@pytest.fixture(scope="module")
def codec(model):
  return mmdcodec.load(model)


def stream_of(codec, frames=40, **more):
  """Codes that a codec could have made."""
  model = codec.model
  fields = dict(
    samples=frames * model.stride,
    rate=codec.rate,
    channels=codec.channels,
    stride=model.stride,
    model=codec.hash,
  )
  return make_stream(
    frames, codec.codebooks, model.codebook_size, **{**fields, **more}
  )


@pytest.mark.parametrize(
  "more",
  [
    dict(scale=np.ones(1)),
    dict(segment_frames=4, segment_hop=40),
    dict(scale=np.ones(10), segment_frames=4, segment_hop=40),
    dict(channels=2),
  ],
)
def test_files_that_no_such_codec_wrote(tmp_path, model, codec, fails, more):
  """A traceback for a file whose header was changed with its checksums."""
  path = tmp_path / "a.mmdc"
  bitstream.write(path, stream_of(codec, **more))
  said = fails("decode", path, tmp_path / "a.wav", "--model", model)
  assert "does not fit its model" in said
  assert not (tmp_path / "a.wav").exists()


def test_scales_and_segments_must_be_those_of_the_codec(tmp_path):
  """Scales too few or too many, or more audio than the segments hold."""
  config = codec_model.preset(
    "soundstream_tiny", normalize=True, chunk_seconds=0.05, overlap=0.1
  )
  inner = codec_model.from_config(config)
  codec = types.SimpleNamespace(
    model=inner,
    rate=inner.rate,
    channels=inner.channels,
    stride=inner.stride,
    codebooks=inner.codebooks,
    codebook_size=inner.codebook_size,
    hash="0123456789abcdef",
  )
  size, hop = inner.chunk
  unit = -(-size // inner.stride)
  frames = 3 * unit + 1
  right = dict(
    samples=inner.samples_of(frames),
    scale=np.ones(4),
    segment_frames=unit,
    segment_hop=hop,
  )

  def check(data):
    with bitstream.opened(io.BytesIO(data)) as reader:
      return decoding.check_codec(reader, codec, "model")

  good = stream_of(codec, frames, **right)
  check(bitstream.to_bytes(good))
  segments = check(version1(good, (1.0,) * 4)).header
  assert (segments.segment_frames, segments.segment_hop) == (unit, hop)
  for data in (
    version1(good, ()),
    version1(good, (1.0,) * 3),
    version1(good, (1.0,) * 5),
    bitstream.to_bytes(stream_of(codec, frames, **{**right, "scale": None})),
    bitstream.to_bytes(stream_of(codec, frames, scale=np.ones(1))),
    bitstream.to_bytes(
      stream_of(codec, frames, **{**right, "segment_hop": hop - 1})
    ),
    bitstream.to_bytes(
      stream_of(codec, frames, **{**right, "samples": right["samples"] + 1})
    ),
  ):
    with pytest.raises(UserError, match="does not fit"):
      check(data)


def test_every_source_has_a_target_of_its_own():
  """A file that is lost because another one has its name."""
  folder, out = Path("music"), Path("coded")
  names = ["song.flac", "song.wav", "song.wav.ogg", "b.mp3", "B.wav", "c.ogg"]
  names += ["deep/song.ogg"]
  jobs = batch.plan(folder, [folder / name for name in names], out, ".mmdc")
  assert [source.name for source, _ in jobs] == [Path(n).name for n in names]
  assert [str(target.relative_to(out)) for _, target in jobs] == [
    "song.flac.mmdc",
    "song.wav.mmdc",
    "song.wav.ogg.mmdc",
    "b.mp3.mmdc",
    "B.wav.mmdc",
    "c.mmdc",
    "deep/song.mmdc",
  ]


def test_absurd_numbers_are_refused(tmp_path, model, codec, fails):
  """Tracebacks, or a 0 that is taken for all."""
  path, out = tmp_path / "a.mmdc", tmp_path / "b.mmdc"
  bitstream.write(path, stream_of(codec))
  assert "is 0" in fails("encode", path, out, "--codebooks", 0)
  for seconds in ("1e308", "inf", "nan", "0", "-1"):
    argv = ["--coding", "raw", "--chunk", seconds]
    assert "--chunk" in fails("encode", path, out, *argv)
  for end in ("inf", "nan"):
    argv = ["--model", model, "--end", end]
    assert "not a part" in fails("decode", path, tmp_path / "a.wav", *argv)
  assert not out.exists()
  header = bitstream.header_for(codec, codebooks=0)
  assert "codebooks is 0" in header.contradiction()


def test_a_folder_of_too_many_codebooks_is_refused_once(tmp_path, model, fails):
  """The same mistake told for each of a thousand files."""
  (tmp_path / "music").mkdir()
  for name in ("a.wav", "b.wav"):
    (tmp_path / "music" / name).write_bytes(b"not looked at")
  for number in (0, 99):
    argv = ["--model", model, "--codebooks", number]
    said = fails("encode", tmp_path / "music", tmp_path / "coded", *argv)
    assert f"--codebooks is {number}" in said
  assert not (tmp_path / "coded").exists()


def test_a_file_written_over_tells_what_it_was(tmp_path, capsys):
  """The new size given for the old one."""
  path = tmp_path / "a.mmdc"
  codes = lively_codes(400, 3, 1000)
  bitstream.write(path, make_stream(400, codes=codes))
  was = path.stat().st_size
  argv = ["encode", str(path), str(path), "--codebooks", "1", "--force"]
  assert main(argv) == 0
  said = capsys.readouterr().out
  assert f"(was {was / 1000:.1f} KB)" in said and "1 codebook," in said
  assert path.stat().st_size < was / 2
  assert [p.name for p in tmp_path.iterdir()] == ["a.mmdc"]


def test_stdin_is_known_by_its_bytes(tmp_path, monkeypatch, fails):
  """A coded stream that is refused as audio, or named by a file descriptor."""
  stream = make_stream(50)
  data = bitstream.to_bytes(stream)
  out = tmp_path / "a.mmdc"
  monkeypatch.setattr(sys, "stdin", Pipe(data))
  assert main(["encode", "-", str(out), "--codebooks", "2"]) == 0
  np.testing.assert_array_equal(bitstream.read(out).codes, stream.codes[:, :2])
  monkeypatch.setattr(sys, "stdin", Pipe(data[:-9]))
  argv = ["encode", "-", tmp_path / "b.mmdc", "--codebooks", 1]
  assert "stdin is damaged" in fails(*argv)
  ecdc = make_ecdc("encodec_24khz", 3200, 1, [np.zeros((10, 1), int)])
  with block_io.spooled(io.BytesIO(ecdc)) as file:
    with decoding.opened(file) as reader:
      assert (reader.version, reader.name, reader.frames) == (0, "stdin", 10)
  # A coded file of any name.
  path = tmp_path / "song"
  path.write_bytes(data)
  assert (
    main(["encode", str(path), str(out), "--coding", "raw", "--force"]) == 0
  )
  np.testing.assert_array_equal(bitstream.read(out).codes, stream.codes)


@pytest.mark.parametrize("coding", ["raw", "conditional"])
@pytest.mark.parametrize(
  "change",
  [
    lambda data, at: data[:at] + b"junk" + data[at:],
    lambda data, at: data[:at] + bytes(5000) + data[at:],
    lambda data, at: data[:at] + data[at - 7 : at] + data[at:],
    lambda data, at: data[:at] + data[:at] + data[at:],
    lambda data, at: data[:at] + data[at + 3 :],
  ],
)
def test_info_of_inserted_bytes(tmp_path, capsys, coding, change):
  """Between any two chunks, before the first and after the last one."""
  _, data = damaged_streams.make(coding)
  path = tmp_path / "a.mmdc"
  with bitstream.opened(io.BytesIO(data), recover=True) as reader:
    assert not reader.damage
  for at in damaged_streams.places(data):
    path.write_bytes(change(data, at))
    assert main(["info", str(path)]) == 2
    out, err = capsys.readouterr()
    assert "DAMAGED" in out and "damaged" in err and len(err.splitlines()) == 1


def test_a_table_without_rows():
  assert formatting.table(None, []) == ""
  assert formatting.table(("a", "b"), []) == "a  b\n-  -"
