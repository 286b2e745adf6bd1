"""What a music model hears of a melody.

Must catch: another class than the public front end's, at the ends of the music
too; a frame too many or too few; a melody that is not begun again.
"""

import librosa
import numpy as np
import pytest

from mmdcodec.audio import melody
from mmdcodec.errors import UserError

RATE = 32_000


def tune(pitches, seconds=0.75, rate=RATE):
  """Notes with overtones, one after the other, in noise."""
  time = np.arange(round(seconds * rate)) / rate
  notes = []
  for pitch in pitches:
    hz = 440 * 2 ** ((pitch - 69) / 12)
    notes.append(
      sum(np.sin(2 * np.pi * k * hz * time) / k**2 for k in range(1, 6))
    )
  x = np.concatenate(notes)
  return x + 0.01 * np.random.default_rng(0).standard_normal(x.size)


def front_end(x, ends="reflect"):
  """Classes by librosa; the public front end mirrors the ends of the music."""
  chroma = librosa.feature.chroma_stft(
    y=x.astype(np.float32),
    sr=RATE,
    n_fft=16_384,
    hop_length=4096,
    tuning=0,
    norm=None,
    pad_mode=ends,
  )
  return chroma.argmax(0)


def test_classes_are_those_of_the_public_front_end():
  """Catches padding, a window, a filter or a count of frames that differ.

  The public one is torchaudio's spectrogram by librosa's filters.
  """
  # In noise all classes are nearly alike, so that any difference shows: at the
  # end of one of these, at the start of the other.
  for seed, end in ((2, -1), (3, 0)):
    x = np.random.default_rng(seed).standard_normal(80_000)
    want = front_end(x)
    assert want[end] != front_end(x, "constant")[end]
    found = melody.pitch_classes(x, RATE)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, want)
  x = tune([60, 67, 57, 64])
  for samples in (x.size, 16_385):
    found = melody.pitch_classes(x[:samples], RATE)
    np.testing.assert_array_equal(found, front_end(x[:samples]))


def test_the_tune_is_heard():
  """Catches classes that are counted from another note, or frames off time."""
  pitches = [60, 62, 64, 65, 67, 69, 71]
  found = melody.pitch_classes(tune(pitches), RATE)
  middles = np.round((np.arange(7) + 0.5) * 0.75 * RATE / 4096).astype(int)
  np.testing.assert_array_equal(found[middles], np.array(pitches) % 12)
  # Both channels count, and the rate decides what is heard.
  low, high = tune([60]), 0.1 * tune([66])
  stereo = np.stack([low, high], axis=1)
  assert set(melody.pitch_classes(stereo, RATE)) == {0}
  assert set(melody.pitch_classes(stereo * [0.01, 1], RATE)) == {6}
  assert set(melody.pitch_classes(low, round(RATE * 2 ** (1 / 12)))) == {1}


def test_long_short_and_silent_music():
  """Catches blocks that are joined wrongly, and short music that is refused."""
  x = tune(np.tile([60, 67, 57, 64], 5), seconds=0.2, rate=8000)
  options = dict(window=512, hop=128)
  whole = melody.pitch_classes(x, 8000, **options)
  assert len(whole) == len(x) // 128 + 1 > 2 * melody._BLOCK
  # Far from its ends a cut changes nothing.
  part = melody.pitch_classes(x[128 * 50 :], 8000, **options)
  np.testing.assert_array_equal(part[4:], whole[54:])
  # One window, in whose middle it stands.
  noise = np.random.default_rng(1).standard_normal(9001)
  middle, start = (np.pad(noise, p) for p in ((3691, 3692), (0, 7383)))
  want = front_end(middle)
  assert (want != front_end(start)).any()
  np.testing.assert_array_equal(melody.pitch_classes(noise, RATE), want)
  assert len(melody.pitch_classes(np.ones(1), RATE)) == 5
  np.testing.assert_array_equal(melody.pitch_classes(np.zeros(20_000), RATE), 0)
  for x in (np.zeros((0, 1)), np.zeros((1, 2, 3)), np.full(9, np.nan)):
    with pytest.raises(UserError, match="melody has shape"):
      melody.pitch_classes(x, RATE)
