"""`mmdcodec generate`, through `main(argv)`.

Catches: music of another length or rate than asked for, pieces that are all the
same, a beginning that is not the one given, or given at the wrong rate, and
mistakes that end in a traceback or after the work is done.
"""

import numpy as np
import pytest
import soundfile
from random_music import random_music

import mmdcodec
from mmdcodec import bundle
from mmdcodec.audio import files
from mmdcodec.cli.main import main

pytestmark = pytest.mark.usefixtures("compile_fast")

FRAMES = 12


@pytest.fixture(scope="module")
def music(tmp_path_factory):
  """Bundle of a tiny music model at 8 kHz."""
  folder = tmp_path_factory.mktemp("music")
  config, variables = random_music(
    folder / "codec", codec=dict(dilations=(1,)), frames=FRAMES, layers=1
  )
  bundle.save(folder / "music", config, variables)
  return str(folder / "music")


def test_pieces_of_the_length_and_rate(tmp_path, music, fails, capsys):
  """Catches seconds that are not those asked for, and equal pieces."""
  out = tmp_path / "piece.flac"
  argv = ["generate", "calm piano", str(out), "--model", music]
  argv += ["--seconds", "0.05", "--seed", "3"]
  assert main([*argv, "--count", "2"]) == 0
  model = mmdcodec.load(music)
  codes = model.generate_codes(["calm piano"] * 2, seconds=0.05, seed=3)
  want = model.codec.decode(codes)
  shown = capsys.readouterr().out.splitlines()
  for i in range(2):
    x, rate = soundfile.read(tmp_path / f"piece-{i + 1}.flac", dtype="float32")
    assert (rate, len(x)) == (8000, 400)
    np.testing.assert_allclose(x, np.clip(want[i, :, 0], -1, 1), atol=1e-4)
    assert shown[i].endswith(f"0.05 s at 8000 Hz, seed {3 + i}")
  assert not np.array_equal(codes[0], codes[1]) and not out.exists()
  # Once more, with one of them taken.
  taken, other = (tmp_path / f"piece-{i}.flac" for i in (2, 1))
  taken.write_text("precious")
  other.unlink()
  argv += ["--count", "2"]
  assert f"{taken} exists already; give --force" in fails(*argv)
  assert taken.read_text() == "precious" and not other.exists()
  assert main([*argv, "--force"]) == 0
  assert soundfile.info(taken).frames == soundfile.info(other).frames == 400


def test_going_on_from_audio_of_another_rate(tmp_path, music, fails):
  """Catches a beginning that is lost, or taken to be at the model's rate."""
  model = mmdcodec.load(music)
  # 0.05 s in stereo at 22.05 kHz: 20 frames of 20 samples at 8 kHz.
  t = np.arange(1103) / 22050
  x = 0.4 * np.stack([np.sin(2770 * t), np.sin(4150 * t)], 1)
  start, out = tmp_path / "start.wav", tmp_path / "more.wav"
  soundfile.write(start, x, 22050, subtype="FLOAT")
  x = files.resample(np.float32(x), rate=22050, to=8000)
  known = model.codec.encode(x)
  assert known.shape[1] == 20
  argv = ["generate", "", out, "--model", music, "--continue", start]
  # Those are seconds of the whole.
  assert "ask for more" in fails(*argv, "--seconds", "0.05")
  assert not out.exists()
  assert main([*map(str, argv), "--seconds", "0.08"]) == 0
  y, rate = soundfile.read(out, dtype="float32")
  assert (rate, len(y)) == (8000, 640)
  want = model.codec.decode(known)[0, :, 0]
  # This codec is causal: what comes after changes nothing before.
  np.testing.assert_allclose(y[:400], np.clip(want, -1, 1)[:400], atol=1e-4)
  assert np.abs(y[400:]).max() > 0


def test_mistakes(tmp_path, music, model, fails):
  """Catches what is found out after the work, or never."""
  out = tmp_path / "a.wav"
  argv = ["generate", "calm", out, "--model"]
  assert "no model" in fails(*argv, tmp_path / "nothing")
  assert "is no music model" in fails(*argv, model)
  argv.append(music)
  assert "seconds is 0" in fails(*argv, "--seconds", "0")
  assert "--count is 0" in fails(*argv, "--count", "0")
  assert "no such file" in fails(*argv, "--continue", tmp_path / "none.wav")
  assert "takes no melody" in fails(*argv, "--melody", _silence(tmp_path))
  longest = mmdcodec.load(music).conditions[0].longest
  error = fails("generate", "x" * longest, out, "--model", music)
  assert f"{longest + 1} tokens; this model takes at most {longest}" in error
  assert not out.exists()


def _silence(folder):
  path = folder / "silence.wav"
  soundfile.write(path, np.zeros(800), 8000)
  return path
