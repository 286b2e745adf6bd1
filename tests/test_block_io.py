"""Audio files block by block.

Catches: blocks that are not the file, seams where they meet, a resampled length
that is off by one, and files that differ from those written at once.
"""

import io

import numpy as np
import pytest
import soundfile

from mmdcodec.audio import block_io, files
from mmdcodec.errors import UserError


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(block_io, "_BLOCK", 5000)


@pytest.fixture(scope="module")
def sound():
  rng = np.random.default_rng(0)
  return (0.2 * rng.standard_normal((27_001, 2))).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("rate, channels", [(44100, 2), (16000, 1)])
def test_blocks_are_the_file(tmp_path, sound, suffix, rate, channels):
  """Samples lost, doubled or changed where blocks meet."""
  path = tmp_path / f"a{suffix}"
  soundfile.write(path, sound, 44100)
  whole, _ = files.read(path, rate=rate, channels=channels)
  with block_io.read(path, rate=rate, channels=channels) as (info, parts):
    parts = list(parts)
  assert info == files.info(path)
  assert len(parts) > 3
  np.testing.assert_array_equal(np.concatenate(parts), whole)
  with block_io.read(
    io.BytesIO(path.read_bytes()), rate=rate, channels=channels
  ) as (_, parts):
    assert sum(len(x) for x in parts) == len(whole)


@pytest.mark.parametrize("samples", [1, 3, 4999, 5000, 5001, 10_000])
@pytest.mark.parametrize("rate", [8000, 24000, 44100, 48000])
def test_any_length_at_any_rate(tmp_path, sound, samples, rate):
  """A resampled file that is a sample longer or shorter than the whole."""
  path = tmp_path / "a.wav"
  soundfile.write(path, sound[:samples], 24000)
  with block_io.read(path, rate=rate, channels=1) as (_, parts):
    count = sum(len(x) for x in parts)
  assert count == files.resampled_length(samples, rate=24000, to=rate)


def test_what_cannot_be_read(tmp_path, sound):
  """A broken download, or NaN, taken for music."""
  path = tmp_path / "a.flac"
  soundfile.write(path, sound, 44100)
  path.write_bytes(path.read_bytes()[:60_000])
  with pytest.raises(UserError, match="truncated|damaged"):
    with block_io.read(path, rate=44100, channels=2) as (_, parts):
      list(parts)
  path = tmp_path / "a.wav"
  x = sound.copy()
  x[20_000] = np.nan
  soundfile.write(path, x, 44100, "FLOAT")
  with pytest.raises(UserError, match="NaN"):
    with block_io.read(path, rate=44100, channels=2) as (_, parts):
      list(parts)


@pytest.mark.parametrize("suffix, to", [(".wav", None), (".flac", 16000)])
def test_written_in_blocks_is_written_at_once(tmp_path, sound, suffix, to):
  """Seams, clipping or a length of its own in files written block by block."""
  one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
  x = 8 * sound
  files.write(
    one, files.resample(x, rate=44100, to=to or 44100), rate=to or 44100
  )
  with block_io.create(other, rate=44100, channels=2, to=to) as writer:
    for part in np.split(x, [1, 2000, 20_000]):
      writer.write(part)
  assert writer.samples == len(x) and writer.rate == (to or 44100)
  read = [soundfile.read(path, dtype="int16")[0] for path in (one, other)]
  np.testing.assert_array_equal(*read)
  assert not list(tmp_path.glob(".*"))


def test_a_failure_leaves_what_was_there(tmp_path, sound):
  """Half a file in place of a whole one."""
  path, mine = tmp_path / "a.wav", tmp_path / "a.wav.partial"
  path.write_bytes(b"precious")
  mine.write_bytes(b"of the user")
  with pytest.raises(UserError, match="NaN"):
    with block_io.create(path, rate=8000, channels=2) as writer:
      writer.write(sound)
      writer.write(np.full((3, 2), np.nan))
  assert path.read_bytes() == b"precious"
  assert mine.read_bytes() == b"of the user"
  assert len(list(tmp_path.iterdir())) == 2
  with pytest.raises(UserError, match="cannot write"):
    with block_io.create(tmp_path / "a.xyz", rate=8000, channels=2):
      pass
