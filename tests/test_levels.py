"""Levels: must catch samples of another scale, and sound lost in silence.

Integers stored as floats that pass for loud music, music that is refused, and
clipping or a silent mix that nobody is told of.
"""

import io
import pathlib

import numpy as np
import pytest
import soundfile

from mmdcodec.audio import block_io, files
from mmdcodec.audio.clip_list import clip_list
from mmdcodec.cli import main
from mmdcodec.data import file_pieces, records
from mmdcodec.errors import Notice, UserError
from mmdcodec.models import codec as codec_model
from mmdcodec.tokenizers import validation

RATE = 8000


def music(peak=1.0, channels=1, samples=RATE):
  rng = np.random.default_rng(0)
  x = np.sin(np.arange(samples) * 0.1)[:, None] + 0.1 * rng.normal(
    size=(samples, channels)
  )
  return peak * x / np.abs(x).max()


def saved(path, x, coding="FLOAT", container="WAV"):
  soundfile.write(path, x, RATE, coding, format=container)
  return path


def readers(path):
  """Calls of everything that reads a file, by name."""

  def blocks():
    with block_io.read(path, rate=RATE, channels=1) as (_, parts):
      return np.concatenate(list(parts))

  def pieces():
    return list(file_pieces.pieces(path, rate=RATE, channels=1, seconds=1))

  return {
    "read": lambda: files.read(path),
    "stream": lambda: files.read(io.BytesIO(path.read_bytes())),
    "blocks": blocks,
    "pieces": pieces,
  }


@pytest.mark.parametrize(
  "x, words",
  [
    (np.rint(music(9830)), "reach 9830, .* integers"),  # 16 bits
    (np.rint(music(2.0**31)), "reach 2.14748e\\+09"),  # 32 bits
    (np.rint(music(5)), "reach 5"),  # a quiet passage of them
    (music(32768), "reach 32768"),  # resampled before they were saved
    (music(8.1), "reach 8.1"),
  ],
)
@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF"])
def test_samples_of_another_scale_are_refused(tmp_path, x, words, container):
  """Integers stored as floats: noise at full scale, and no error."""
  path = saved(tmp_path / "a.wav", x, container=container)
  assert files.info(path).samples == len(x)
  for name, look in readers(path).items():
    with pytest.raises((UserError, file_pieces.Damaged), match=words) as error:
      look()
    assert "\n" not in str(error.value), name


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32])
def test_arrays_of_another_scale_are_refused(dtype):
  """`codec.encode(wave)` of what other libraries read: integers."""
  x = (music(100) + 100 * (dtype == np.uint8)).astype(dtype)
  for take in (
    lambda: clip_list(x, "melody"),
    lambda: clip_list([x[:, 0], x], "melody"),
    lambda: validation.audio_batch(x, RATE, None, to=RATE, channels=1),
  ):
    with pytest.raises(UserError, match="samples reach"):
      take()
  clip_list(music(), "melody")


@pytest.mark.parametrize(
  ("x", "words"),
  [
    ("song.wav", "the name 'song.wav'; read the file"),
    (pathlib.Path("song.wav"), "the name 'song.wav'; read the file"),
    ([[0.1, 0.2], [0.3]], "pad them to the longest"),
  ],
)
def test_what_is_no_array_is_refused(x, words):
  """`codec.encode("song.wav")`, and clips of several lengths in one list."""
  model = codec_model.from_config(codec_model.preset("soundstream_tiny"))
  for take in (
    lambda: clip_list([x], "melody"),
    lambda: validation.audio_batch(x, RATE, None, to=RATE, channels=1),
    lambda: validation.audio(model, x),
  ):
    with pytest.raises(UserError, match=words):
      take()


@pytest.mark.parametrize(
  "x",
  [
    music(3.9),  # a mix that peaks 12 dB above full scale
    music(7.9),
    np.zeros((RATE, 1)),
    np.sign(music()),  # clipped hard
    np.where(np.arange(RATE)[:, None] == 77, 1.0, 0.0),  # a click
    np.rint(music(1.4)),
  ],
)
def test_loud_and_odd_music_is_read(tmp_path, x):
  path = saved(tmp_path / "a.wav", x)
  for look in readers(path).values():
    look()
  np.testing.assert_allclose(files.read(path)[0], x, rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".aiff"])
def test_clipping_is_said(tmp_path, suffix):
  """Half of all samples clipped, without a word."""
  path = tmp_path / ("a" + suffix)
  x = music(3.0)
  share = np.mean(np.abs(x) > 1)
  with pytest.warns(Notice, match=f"{share:.0%} of the samples") as caught:
    files.write(path, x, rate=RATE)
  assert len(caught) == 1 and str(path) in str(caught[0].message)
  with pytest.warns(Notice, match="clipped") as caught:
    with block_io.create(path, rate=RATE, channels=1, name="stdout") as writer:
      for part in np.split(x, 4):
        writer.write(part)
  assert len(caught) == 1
  assert str(caught[0].message).startswith("stdout: ")
  # Not a word on what is not clipped, or hardly.
  files.write(path, music(1.0), rate=RATE)
  x = music(1.0)
  x[:5] = 1.01
  files.write(path, x, rate=RATE)
  files.write(tmp_path / "a.wav", music(3.0), rate=RATE, subtype="FLOAT")


def test_prepare_says_what_it_clips_and_what_cancels(tmp_path):
  """Records of half the loudness, or of silence, unsaid."""
  folder = tmp_path / "in"
  folder.mkdir()
  saved(folder / "loud.wav", music(3.0))
  left = 0.5 * music()
  saved(folder / "inverted.wav", np.hstack([left, -left]), "PCM_16")
  saved(folder / "stereo.wav", music(0.9, 2), "PCM_16")
  # Half of it is in the mix, which is not clipped.
  saved(folder / "side.wav", np.hstack([3 * left, 0 * left]))
  report = records.prepare(
    folder, tmp_path / "out", rate=RATE, channels=1, progress=False
  )
  notes = dict(report.levels)
  assert set(notes) == {"loud.wav", "inverted.wav"}
  assert "exceed full scale (peak 3)" in notes["loud.wav"]
  assert "clipped" in notes["loud.wav"] and "clipped" in str(report)
  assert "cancel" in notes["inverted.wav"]


@pytest.mark.filterwarnings("error")
def test_a_mix_that_is_silent_is_said(tmp_path):
  """Left and right that cancel: the music is gone."""
  left = 0.5 * music()
  cases = {
    "inverted": (np.hstack([left, -left]), True),
    "with noise": (np.hstack([left, -left + 1e-5 * music()]), True),
    "wide": (np.hstack([left, -0.9 * left]), False),
    "silent": (np.zeros((RATE, 2)), False),
    "one side": (np.hstack([left, 0 * left]), False),
  }
  for name, (x, cancels) in cases.items():
    path = saved(tmp_path / f"{name}.wav", x)
    with block_io.read(path, rate=RATE, channels=1) as (_, parts):
      list(parts)
    assert parts.levels.cancelled == cancels, name
    if cancels:
      with pytest.warns(Notice, match="cancel"):
        files.read(path, channels=1)
    else:
      files.read(path, channels=1)
    files.read(path)
    files.read(path, channels=2)


def test_the_command_prints_notices_in_a_line(monkeypatch, capsys):
  """A warning with a path of the library and its source line."""
  import warnings

  from mmdcodec.cli import info

  def run(_):
    warnings.warn("a.wav: 5% are clipped.", Notice, stacklevel=1)
    warnings.warn("a.wav: 5% are clipped.", Notice, stacklevel=1)

  monkeypatch.setattr(info, "run", run)
  assert main.main(["info", "x"]) == 0
  line = "mmdcodec: a.wav: 5% are clipped.\n"
  assert capsys.readouterr().err == 2 * line


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 11, 19])
@pytest.mark.parametrize("rate, to", [(192_000, 8000), (44100, 8000)])
def test_a_few_samples_resampled_far_down(tmp_path, samples, rate, to):
  """A traceback, because the resampler returns nothing."""
  x = np.full((samples, 1), 0.25, np.float32)
  length = files.resampled_length(samples, rate=rate, to=to)
  path = tmp_path / "a.wav"
  soundfile.write(path, x, rate, "FLOAT")
  with block_io.read(path, rate=to, channels=2) as (_, parts):
    blocks = np.concatenate(list(parts))
  (piece,) = file_pieces.pieces(path, rate=to, channels=1, seconds=1)
  for y in (
    files.resample(x, rate=rate, to=to),
    files.read(path, rate=to)[0],
    blocks,
    piece / 32768,
  ):
    assert len(y) == length and np.abs(y - 0.25).max() < 0.25
  with block_io.create(path, rate=rate, channels=1, to=to) as writer:
    writer.write(x)
  assert files.info(path).samples == length
