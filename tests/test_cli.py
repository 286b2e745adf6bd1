"""The verbs that code and decode, through the real `main(argv)`.

Catches: files of another length than the input, audio lost or overwritten, a
stream decoded with the wrong model, codes that differ from the library's, and
mistakes that end in a traceback, an exit code other than 2 or no advice.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
import soundfile
from random_codec import each_topology, write_random_codec

import mmdcodec
from mmdcodec import bitstream, bundle
from mmdcodec.audio import files
from mmdcodec.cli.main import _report, main


@pytest.fixture(scope="session")
def other_model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("models") / "other"
  return write_random_codec(folder, 1, dilations=(1,))


@pytest.fixture(scope="session")
def song(tmp_path_factory):
  """0.5 s of stereo at 44.1 kHz: neither rate nor channels of the codec."""
  t = np.arange(22050) / 44100
  x = 0.4 * np.stack([np.sin(2770 * t), np.sin(4150 * t)], 1)
  path = tmp_path_factory.mktemp("audio") / "song.flac"
  soundfile.write(path, x, 44100)
  return str(path)


@pytest.fixture(scope="session")
def coded(tmp_path_factory, model, song):
  path = str(tmp_path_factory.mktemp("coded") / "song.mmdc")
  assert main(["encode", song, path, "--model", model]) == 0
  return path


@each_topology
def test_encode_info_decode(tmp_path, model, song, coded, capsys):
  codec = mmdcodec.load(model)
  stream = bitstream.read(coded)
  assert stream.samples == codec.rate // 2
  assert len(stream.codes) == -(-stream.samples // codec.model.stride)
  x, _ = soundfile.read(song, dtype="float32")
  expected = codec.encode(x, rate=44100)
  np.testing.assert_array_equal(stream.codes, expected[0])

  assert main(["info", coded]) == 0
  shown = capsys.readouterr().out
  bits = bitstream.code_bits(codec.model.codebook_size)
  kbps = bits * codec.codebooks * codec.frame_rate / 1000
  for words in ("0.50 s", f"{codec.rate} Hz", codec.hash, f"{kbps:.1f}"):
    assert words in shown

  out = tmp_path / "back.wav"
  assert main(["decode", coded, str(out), "--model", model]) == 0
  y, rate = soundfile.read(out, dtype="float32")
  assert (rate, y.shape) == (codec.rate, (stream.samples,))
  z = codec.decode(expected, length=stream.samples)[0, :, 0]
  np.testing.assert_allclose(y, np.clip(z, -1, 1), atol=1 / 32768)


def test_what_was_changed_is_said_in_one_line(tmp_path, model, song, capsys):
  out = str(tmp_path / "a.mmdc")
  assert main(["encode", song, out, "--model", model]) == 0
  first, second = capsys.readouterr().out.splitlines()
  assert "0.50 s, 44100 Hz, 2 channels; mixed to 1 channel" in first
  assert f"resampled to {mmdcodec.load(model).rate} Hz" in first
  assert "kbps" in second


def test_a_normalised_stereo_codec_in_chunks(tmp_path, song):
  model = write_random_codec(
    tmp_path / "model", 2, "encodec_stereo_tiny", lstm_layers=0
  )
  coded, out = str(tmp_path / "a.mmdc"), str(tmp_path / "a.wav")
  assert main(["encode", song, coded, "--model", model]) == 0
  assert main(["decode", coded, out, "--model", model]) == 0
  codec = mmdcodec.load(model)
  x = soundfile.read(song, dtype="float32")[0]
  x = files.resample(x, rate=44100, to=codec.rate)[None]
  codes, scale = codec.encode(x, return_scale=True)
  stream = bitstream.read(coded)
  assert len(stream.codes) > -(-x.shape[1] // codec.model.stride)  # overlaps
  assert len(stream.scale) == scale.shape[1] > 1
  np.testing.assert_array_equal(stream.codes, codes[0])
  np.testing.assert_array_equal(stream.scale, scale[0])
  y = codec.decode(codes, scale=scale, length=x.shape[1])[0]
  back = soundfile.read(out, dtype="float32")[0]
  assert back.shape == x.shape[1:]
  np.testing.assert_allclose(back, np.clip(y, -1, 1), atol=1e-4)


@each_topology
def test_fewer_codebooks_are_the_first_ones(tmp_path, model, song, coded):
  out = tmp_path / "one.mmdc"
  argv = ["encode", song, str(out), "--model", model, "--codebooks", "1"]
  assert main(argv) == 0
  codes = bitstream.read(out).codes
  np.testing.assert_array_equal(codes, bitstream.read(coded).codes[:, :1])
  wav = str(tmp_path / "one.wav")
  assert main(["decode", str(out), wav, "--model", model]) == 0
  assert soundfile.info(wav).duration == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".wav"])
def test_other_formats_and_rates_keep_the_duration(
  tmp_path, model, coded, suffix
):
  out = tmp_path / f"back{suffix}"
  argv = ["decode", coded, str(out), "--model", model, "--rate", "44100"]
  assert main(argv) == 0
  info = soundfile.info(out)
  assert (info.samplerate, info.frames) == (44100, 22050)


def test_nothing_is_overwritten_without_force(
  tmp_path, model, song, coded, fails
):
  for argv in (["encode", song, "a.mmdc"], ["decode", coded, "a.wav"]):
    target = tmp_path / argv[2]
    target.write_bytes(b"precious")
    argv = [argv[0], argv[1], str(target), "--model", model]
    assert "--force" in fails(*argv)
    assert target.read_bytes() == b"precious"
    assert main([*argv, "--force"]) == 0
    assert target.read_bytes() != b"precious"


def test_another_model_is_refused(tmp_path, other_model, coded, fails):
  out = tmp_path / "a.wav"
  error = fails("decode", coded, out, "--model", other_model)
  assert bitstream.read(coded).model in error
  assert mmdcodec.load(other_model).hash in error
  assert not out.exists()


def test_wrong_way_round(tmp_path, model, song, coded, fails):
  error = fails("encode", coded, tmp_path / "a.wav", "--model", model)
  assert "mmdcodec decode" in error
  error = fails("decode", song, tmp_path / "a.mmdc", "--model", model)
  assert "mmdcodec encode" in error
  error = fails("encode", song, tmp_path / "a.xyz", "--model", model)
  assert ".mmdc" in error
  error = fails("decode", coded, tmp_path / "a.xyz", "--model", model)
  assert ".flac" in error
  error = fails("decode", coded, tmp_path / "noend", "--model", model)
  assert ".flac" in error


def test_bad_input_audio(tmp_path, model, fails):
  out = tmp_path / "a.mmdc"
  text, empty, silent = (tmp_path / n for n in ("t.wav", "e.wav", "z.wav"))
  text.write_text("not audio at all")
  empty.write_bytes(b"")
  soundfile.write(silent, np.zeros(0), 24000)
  for path, word in (
    (tmp_path / "missing.wav", "no such file"),
    (tmp_path, "folder"),
    (text, "not audio"),
    (empty, "empty"),
    (silent, "no samples"),
  ):
    assert word in fails("encode", path, out, "--model", model)
  assert not out.exists()


@each_topology
def test_one_sample_is_audio(tmp_path, model):
  wav, out = tmp_path / "s.wav", tmp_path / "s.mmdc"
  soundfile.write(wav, np.zeros(1), mmdcodec.load(model).rate)
  assert main(["encode", str(wav), str(out), "--model", model]) == 0
  back = str(tmp_path / "b.wav")
  assert main(["decode", str(out), back, "--model", model]) == 0
  assert soundfile.info(back).frames == 1


def test_bad_arguments(tmp_path, model, song, coded, fails):
  out = tmp_path / "a.mmdc"
  error = fails("encode", song, out, "--model", model, "--codebooks", "99")
  assert "codebooks" in error
  error = fails("encode", song, out, "--model", tmp_path / "nothing")
  assert "no model" in error
  error = fails("encode", song, tmp_path / "no" / "a.mmdc", "--model", model)
  assert "does not exist" in error
  error = fails(
    "decode", coded, tmp_path / "a.wav", "--model", model, "--rate", "0"
  )
  assert "--rate" in error


def test_damaged_stream(tmp_path, model, coded, fails):
  data = bytearray(open(coded, "rb").read())
  data[-6] ^= 4
  damaged = tmp_path / "d.mmdc"
  damaged.write_bytes(data)
  out = tmp_path / "a.wav"
  assert "damaged" in fails("decode", damaged, out, "--model", model)
  assert "damaged" in fails("info", damaged)
  assert not out.exists()


@each_topology
def test_info_of_a_bundle(model, capsys):
  assert main(["info", model]) == 0
  lines = capsys.readouterr().out.splitlines()
  codec = mmdcodec.load(model)
  count = sum(x.size for x in jax.tree.leaves(codec.variables["params"]))
  assert any(line.split()[-2:] == [f"{count / 1e6:.2f}", "M"] for line in lines)
  # The last lines: kbps for each number of codebooks.
  bits = bitstream.code_bits(codec.model.codebook_size)
  table = [line.split() for line in lines[-codec.codebooks :]]
  for n, (books, kbps) in enumerate(table, 1):
    assert int(books) == n
    expected = n * bits * codec.frame_rate / 1000
    assert float(kbps) == pytest.approx(expected, rel=0.01)


def test_info_of_nothing(tmp_path, fails):
  text = tmp_path / "t.txt"
  text.write_text("words")
  assert "not a .mmdc file" in fails("info", text)
  assert "no such" in fails("info", tmp_path / "missing")
  assert fails("info", tmp_path).endswith(
    "no data set; give one of these or a .mmdc file.\n"
  )


def test_export_of_nothing(tmp_path, fails):
  assert "config.json" in fails("export", tmp_path, tmp_path / "bundle")
  assert not (tmp_path / "bundle").exists()


def test_a_bundle_with_damaged_weights(tmp_path, model, song, fails):
  folder = tmp_path / "bad"
  folder.mkdir()
  for name in (bundle.CONFIG_FILE, bundle.WEIGHTS_FILE):
    data = open(f"{model}/{name}", "rb").read()
    (folder / name).write_bytes(data)
  config = json.loads((folder / bundle.CONFIG_FILE).read_text())
  (folder / bundle.WEIGHTS_FILE).write_bytes(data[: len(data) // 2])
  out = tmp_path / "a.mmdc"
  assert "damaged" in fails("encode", song, out, "--model", folder)
  (folder / bundle.WEIGHTS_FILE).write_bytes(data)
  config["model"]["filters"] *= 2
  (folder / bundle.CONFIG_FILE).write_text(json.dumps(config))
  assert "do not fit" in fails("encode", song, out, "--model", folder)


def test_a_format_that_knows_few_rates(tmp_path, model, coded, capsys):
  out = tmp_path / "back.mp3"
  capsys.readouterr()
  argv = ["decode", coded, str(out), "--model", model, "--rate", "9000"]
  assert main(argv) == 0
  info = files.info(out)
  assert info.rate == 11025
  assert info.seconds == pytest.approx(0.5, abs=0.2)  # the coder's padding
  assert "back.mp3: 0.50 s, 11025 Hz, " in capsys.readouterr().out


def test_a_stream_without_audio(tmp_path, model, coded, fails):
  stream = bitstream.read(coded)
  none = dataclasses.replace(stream, samples=0, codes=stream.codes[:0])
  path = tmp_path / "none.mmdc"
  bitstream.write(path, none)
  out = tmp_path / "a.wav"
  assert f"{path} holds no audio" in fails(
    "decode", path, out, "--model", model
  )


def test_a_link_in_place_of_a_folder(tmp_path, capsys):
  """Catches a link to nothing that is called a file."""
  link = tmp_path / "link"
  link.symlink_to(tmp_path / "gone")
  for path in (link, link / "below"):
    with pytest.raises(FileExistsError) as raised:
      path.mkdir(parents=True, exist_ok=True)
    assert _report(raised.value) == 2
    words = f" {link}: is a link to {tmp_path / 'gone'}, which does not exist;"
    assert words in capsys.readouterr().err
  # What became a folder meanwhile is neither.
  (tmp_path / "gone").mkdir()
  assert _report(raised.value) == 2
  assert f" {link}: File exists." in capsys.readouterr().err


def test_paths_that_cannot_be(tmp_path, model, song, fails):
  file = tmp_path / "file"
  file.write_text("precious")
  assert f"{file}: " in fails("quickstart", "--tiny", "--workdir", file)
  # The file is named, not what cannot be made below it.
  for below in (file / "below", file / "far" / "below"):
    error = fails("quickstart", "--tiny", "--workdir", below)
    assert f" {file}: is a file; give the name of a folder." in error
  argv = ["evaluate", "--model", model, "--audio", song, "--out"]
  assert "is a file" in fails(*argv, file)
