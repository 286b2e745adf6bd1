"""Intervals between the pitches of frames, and the bands that they need.

Must catch: a band that is missed or counted round the end, intervals upside
down, frames of padding that count, and a melody that differs in another key.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.models import intervals

LAGS, MOST = (0, 2, 5, 11), 4


def test_against_sums():
  """Each product of two bands one by one, in float64."""
  rng = np.random.default_rng(0)
  levels = rng.uniform(-60, 0, (2, 9, 12))
  valid = np.arange(9) < np.array([[9], [6]])
  take = jax.jit(lambda x, v: intervals.intervals(x, v, lags=LAGS, most=MOST))
  found = take(jnp.float32(levels), valid)
  want = np.zeros((2, 9, len(LAGS), 2 * MOST + 1))
  for item, frames in enumerate(valid.sum(1)):
    x = levels[item, :frames]
    x = np.maximum(x - (x.max() - 25), 0) / 25
    x -= x.mean(-1, keepdims=True)
    for t in range(frames):
      for k, lag in enumerate(LAGS):
        for up in range(-MOST, MOST + 1):
          if t + lag < frames:
            want[item, t, k, up + MOST] = sum(
              x[t, p] * x[t + lag, p + up]
              for p in range(12)
              if 0 <= p + up < 12
            )
  np.testing.assert_allclose(found, want.reshape(found.shape), atol=1e-5)
  # What is not valid may be louder.
  levels[1, 6:] += 50
  np.testing.assert_allclose(take(jnp.float32(levels), valid), found, atol=1e-5)


def test_bands():
  """A tone is loudest in its own band, and every band hears white noise."""
  filters = intervals.pitch_filters(8000, 2048, 60, 110.0, 12)
  np.testing.assert_allclose(filters.sum(0), 1, rtol=1e-5)
  time = np.arange(8000) / 8000
  hz = 110 * 2 ** (np.array([12, 31, 59]) / 12)
  x = np.sin(2 * np.pi * hz[:, None] * time)[..., None]
  levels, valid = intervals.pitch_levels(
    jnp.float32(x),
    jnp.array([8000, 8000, 3000]),
    rate=8000,
    window=2048,
    hop=640,
    bands=60,
    fmin=110.0,
    octave=12,
  )
  assert levels.shape == (3, 13, 60) and [*valid.sum(1)] == [13, 13, 5]
  assert [*levels.mean(1).argmax(1)] == [12, 31, 59]


def test_another_key():
  """Two notes sound the same wherever they are, and not if they fall."""
  time = np.arange(4000) / 8000

  def tune(*pitches):
    notes = [np.sin(2 * np.pi * 220 * 2 ** (p / 12) * time) for p in pitches]
    return np.concatenate(notes)[:, None]

  x = np.float32([tune(0, 4), tune(7, 11), tune(4, 0)])
  levels, valid = intervals.pitch_levels(
    x,
    jnp.full(3, 8000),
    rate=8000,
    window=2048,
    hop=640,
    bands=48,
    fmin=110.0,
    octave=12,
  )
  found = intervals.intervals(levels, valid, lags=(6,), most=12)
  one, higher, down = np.asarray(found[:, 4])
  assert one.argmax() == 12 + 4 and down.argmax() == 12 - 4
  np.testing.assert_allclose(one, higher, atol=0.1 * one.max())
