"""`encode` and `decode` of folders, pipes, parts and damaged or coded files.

Catches: files of a folder left out, made twice or overwritten, one bad file
that stops the rest, bytes that depend on the way audio came in, parts cut at
the wrong sample, damage that is heard or not told of, and foreign `.ecdc` files
decoded by the wrong codec.
"""

import io
import sys

import numpy as np
import pytest
import soundfile
from random_codec import each_topology, write_random_codec
from test_ecdc import make as make_ecdc

import mmdcodec
from mmdcodec import bitstream
from mmdcodec.cli.main import main

RATE, STRIDE = 8000, 20  # of the model


def tone(seconds, seed=0):
  t = np.arange(int(seconds * RATE)) / RATE
  rng = np.random.default_rng(seed)
  x = 0.3 * np.sin(2 * np.pi * 220 * (seed + 1) * t)
  return (x + 0.02 * rng.standard_normal(len(t))).astype(np.float32)


@pytest.fixture(scope="module")
def song(tmp_path_factory):
  path = tmp_path_factory.mktemp("song") / "song.wav"
  soundfile.write(path, tone(6), RATE)
  return path


@pytest.fixture(scope="module")
def coded(tmp_path_factory, model, song):
  path = tmp_path_factory.mktemp("coded") / "song.mmdc"
  argv = ["encode", str(song), str(path), "--model", model, "--chunk", "1"]
  assert main(argv) == 0
  return path


def run(*argv) -> int:
  return main([str(arg) for arg in argv])


class Pipe(io.TextIOWrapper):
  """stdin or stdout that cannot be sought in."""

  def __init__(self, data=b""):
    buffer = io.BytesIO(data)
    buffer.seekable = lambda: False
    super().__init__(buffer)


def test_a_folder_and_back(tmp_path, model, capsys):
  """Files left out, in another place, or done again by the second run."""
  music = tmp_path / "music"
  (music / "deep").mkdir(parents=True)
  for name, seed in (("a.wav", 0), ("deep/b.flac", 1), ("deep/b.wav", 2)):
    soundfile.write(music / name, tone(0.3, seed=seed), RATE)
  (music / "notes.txt").write_text("not audio")
  out, back = tmp_path / "coded", tmp_path / "back"
  assert run("encode", music, out, "--model", model) == 0
  made = sorted(str(p.relative_to(out)) for p in out.rglob("*.*"))
  assert made == ["a.mmdc", "deep/b.flac.mmdc", "deep/b.wav.mmdc"]
  times = {p: p.stat().st_mtime_ns for p in out.rglob("*.mmdc")}
  (out / "a.mmdc").unlink()
  capsys.readouterr()
  assert run("encode", music, out, "--model", model) == 0
  assert "1 of 3 files done; 2 were there" in capsys.readouterr().out
  assert (out / "a.mmdc").exists()
  assert all(
    p.stat().st_mtime_ns == times[p] for p in times if p.name != "a.mmdc"
  )
  argv = ["decode", out, back, "--model", model, "--format", "flac"]
  assert run(*argv) == 0
  made = sorted(str(p.relative_to(back)) for p in back.rglob("*.*"))
  assert made == ["a.flac", "deep/b.flac.flac", "deep/b.wav.flac"]
  assert soundfile.info(back / "a.flac").frames == 2400


def test_one_bad_file_does_not_stop_the_rest(tmp_path, model, capsys, fails):
  """A night of work that ends at the first broken file, or says nothing."""
  music, out = tmp_path / "music", tmp_path / "coded"
  music.mkdir()
  (music / "a.wav").write_text("not audio")
  soundfile.write(music / "b.wav", tone(0.2), RATE)
  assert run("encode", music, out, "--model", model) == 1
  said = capsys.readouterr()
  assert "1 failed" in said.out and "a.wav" in said.err
  assert "Traceback" not in said.err
  assert [p.name for p in out.iterdir()] == ["b.mmdc"]
  assert "folder" in fails("encode", music, music, "--model", model)
  assert "one pipe" in fails("encode", music, "-", "--model", model)
  assert "must be one" in fails(
    "encode", music, music / "b.wav", "--model", model
  )
  empty = tmp_path / "empty"
  empty.mkdir()
  assert "no audio" in fails("encode", empty, out, "--model", model)
  assert "no .mmdc" in fails("decode", empty, out, "--model", model)


@each_topology
def test_pipes_carry_what_files_hold(
  tmp_path, model, song, coded, monkeypatch, capsys
):
  """Text in the middle of the bytes, or other bytes than in a file."""
  stdin, stdout = Pipe(song.read_bytes()), Pipe()
  monkeypatch.setattr(sys, "stdin", stdin)
  monkeypatch.setattr(sys, "stdout", stdout)
  assert run("encode", "-", "-", "--model", model, "--chunk", 1) == 0
  data = stdout.buffer.getvalue()
  assert data == coded.read_bytes()
  monkeypatch.setattr(sys, "stdin", Pipe(data))
  stdout = Pipe()
  monkeypatch.setattr(sys, "stdout", stdout)
  assert run("decode", "-", "-", "--model", model) == 0
  x, rate = soundfile.read(io.BytesIO(stdout.buffer.getvalue()))
  assert (len(x), rate) == (6 * RATE, RATE)
  monkeypatch.undo()
  said = capsys.readouterr().err
  assert "kbps" in said and "stdout.wav" not in said
  out = tmp_path / "a.wav"
  assert run("decode", coded, out, "--model", model) == 0
  np.testing.assert_array_equal(soundfile.read(out)[0], x)


@each_topology
def test_coding_changes_nothing_but_the_size(tmp_path, model, song, coded):
  """Codes that depend on how they are written."""
  codes = bitstream.read(coded).codes
  x = soundfile.read(song, dtype="float32")[0]
  np.testing.assert_array_equal(codes, mmdcodec.load(model).encode(x)[0])
  for coding in bitstream.CODINGS:
    path = tmp_path / f"{coding}.mmdc"
    assert run("encode", coded, path, "--coding", coding) == 0
    np.testing.assert_array_equal(bitstream.read(path).codes, codes)
    with bitstream.opened(path) as reader:
      assert reader.header.coding == coding
    again = tmp_path / f"{coding}_again.mmdc"
    argv = ["--model", model, "--coding", coding, "--chunk", 1]
    assert run("encode", song, again, *argv) == 0
    assert again.read_bytes() == path.read_bytes()


def test_codebooks_of_a_coded_file(tmp_path, coded, fails):
  """Other codes than the first ones, or a model asked for."""
  out = tmp_path / "one.mmdc"
  assert run("encode", coded, out, "--codebooks", 1) == 0
  np.testing.assert_array_equal(
    bitstream.read(out).codes, bitstream.read(coded).codes[:, :1]
  )
  assert "--force" in fails("encode", coded, out, "--codebooks", 1)
  out = tmp_path / "b.mmdc"
  assert "1 to" in fails("encode", coded, out, "--codebooks", 99)
  assert "--codebooks" in fails("encode", coded, out)
  assert not out.exists()


@each_topology
def test_a_part_is_that_part(tmp_path, model, coded, fails):
  """A part that begins at another sample, or sounds unlike the whole."""
  whole, out = tmp_path / "whole.wav", tmp_path / "part.wav"
  assert run("decode", coded, whole, "--model", model) == 0
  x = soundfile.read(whole, dtype="float32")[0]
  for start, end in ((5.5, None), (4.9, 5.25), (0, 0.5), (5.9, 99)):
    argv = ["--start", start, *(["--end", end] if end else []), "--force"]
    assert run("decode", coded, out, "--model", model, *argv) == 0
    y = soundfile.read(out, dtype="float32")[0]
    expected = x[round(start * RATE) : end and round(end * RATE)]
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, atol=2 / 32768)
  for argv in (["--start", 7], ["--start", 3, "--end", 2], ["--start", -1]):
    argv = ["--model", model, "--force", *argv]
    assert "not a part" in fails("decode", coded, out, *argv)


@each_topology
def test_damage_is_told_and_silent(tmp_path, model, coded, capsys, fails):
  """Noise where a chunk was lost, or the rest moved or lost with it."""
  data = bytearray(coded.read_bytes())
  data[len(data) // 2] ^= 255
  bad, out, whole = (tmp_path / n for n in ("bad.mmdc", "a.wav", "whole.wav"))
  bad.write_bytes(data)
  assert "--recover" in fails("decode", bad, out, "--model", model)
  assert not out.exists()
  capsys.readouterr()
  assert run("decode", bad, out, "--model", model, "--recover") == 0
  assert "1 of 6 chunks is lost" in capsys.readouterr().err
  with bitstream.opened(bad, recover=True) as reader:
    ((first, end),) = reader.lost
  assert run("decode", coded, whole, "--model", model) == 0
  x, y = (soundfile.read(path, dtype="float32")[0] for path in (whole, out))
  assert len(x) == len(y)
  assert not y[first * STRIDE : end * STRIDE].any()
  # Frames of a spectral codec overlap by half a frame.
  spectral = mmdcodec.load(model).model.topology == "spectral"
  same = first * STRIDE - spectral * STRIDE // 2
  np.testing.assert_array_equal(x[:same], y[:same])
  np.testing.assert_allclose(
    x[end * STRIDE + 4000 :], y[end * STRIDE + 4000 :], atol=2 / 32768
  )
  capsys.readouterr()
  assert run("info", bad) == 2
  said = capsys.readouterr()
  assert (
    "DAMAGED" in said.out and "lost" in said.out and "--recover" in said.err
  )


def test_ecdc_of_encodec(tmp_path, model, fails):
  """Codes of EnCodec decoded as other codes, or by a codec that is not one."""
  codes = np.random.default_rng(0).integers(0, 1024, (30, 2))
  path, out = tmp_path / "a.ecdc", tmp_path / "a.wav"
  path.write_bytes(make_ecdc("encodec_24khz", 30 * 320 - 5, 2, [codes]))
  assert "a different codec" in fails("decode", path, out, "--model", model)
  bundle = write_random_codec(
    tmp_path / "encodec",
    3,
    codebook_size=1024,
    dilations=(1,),
    rate=24000,
    ratios=(8, 5, 4, 2),
  )
  assert run("decode", path, out, "--model", bundle) == 0
  codec = mmdcodec.load(bundle)
  x = codec.decode(codes, length=30 * 320 - 5)[0, :, 0]
  y = soundfile.read(out, dtype="float32")[0]
  np.testing.assert_allclose(y, np.clip(x, -1, 1), atol=2 / 32768)
