"""Spectral losses: must catch wrong formulas, masks that leak, NaN gradients.

A square where a norm belongs, mean instead of sum over bands, wrong alpha or
normalisation, padding that changes a clip's loss, x == y without gradient.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.audio import transforms
from mmdcodec.losses import spectral

RATE = 24000
MEL = dict(rate=RATE, windows=(64, 256))
LOSSES = {
  "l1": spectral.waveform_l1,
  "soundstream": functools.partial(spectral.multi_scale_mel, **MEL),
  "encodec": functools.partial(spectral.multi_scale_mel, form="encodec", **MEL),
  "stft": functools.partial(spectral.multi_scale_stft, windows=(128, 256)),
}


@functools.cache
def value_and_grad(name):
  """Of the loss with respect to the reconstruction, compiled once a shape."""
  loss = LOSSES[name]
  return jax.jit(jax.value_and_grad(lambda y, x, m: loss(x, y, mask=m)))


def pair(batch=2, samples=3000, channels=1):
  rng = np.random.default_rng(0)
  t = np.arange(samples)[:, None] / RATE
  x = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 4000, (batch, 1, channels)) * t)
  x = x + 0.02 * rng.normal(size=x.shape)
  y = 0.8 * x + 0.05 * rng.normal(size=x.shape)
  return x.astype(np.float32), y.astype(np.float32)


def magnitudes(x, window, normalized):
  """Float64, one frame at a time, from the definition of the DFT."""
  half, hop = window // 2, window // 4
  hann = np.sin(np.pi * np.arange(window) / window) ** 2
  dft = np.exp(
    -2j * np.pi * np.outer(np.arange(window), np.arange(half + 1)) / window
  )
  x = np.pad(x.astype(np.float64), half)
  starts = range(0, len(x) - window + 1, hop)
  y = np.abs(np.stack([(x[i : i + window] * hann) @ dft for i in starts]))
  return y / np.sqrt(np.sum(hann**2)) if normalized else y


def reference_mel(x, y, form):
  total = 0.0
  for window in MEL["windows"]:
    # Themselves checked against librosa in test_transforms.py.
    filters = transforms.mel_filters(RATE, window, 64).astype(np.float64)
    frames = []
    for u, v in zip(x, y, strict=True):
      for c in range(x.shape[-1]):
        normalized = form == "encodec"
        a = magnitudes(u[:, c], window, normalized) @ filters
        b = magnitudes(v[:, c], window, normalized) @ filters
        alpha = 1.0 if normalized else np.sqrt(window / 2)
        for p, q in zip(a, b, strict=True):
          log = np.linalg.norm(np.log(p + 1e-5) - np.log(q + 1e-5))
          frames.append(np.abs(p - q).sum() + alpha * log)
    total += np.mean(frames)
  return total / (2 * len(MEL["windows"])) if form == "encodec" else total


def reference_stft(x, y):
  total = 0.0
  for window in (128, 256):
    convergence, logs = [], []
    for u, v in zip(x, y, strict=True):
      for c in range(x.shape[-1]):
        a = magnitudes(u[:, c], window, True)
        b = magnitudes(v[:, c], window, True)
        convergence.append(np.linalg.norm(a - b) / np.linalg.norm(a))
        logs.append(np.abs(np.log(a + 1e-5) - np.log(b + 1e-5)).mean())
    total += np.mean(convergence) + np.mean(logs)
  return total / 2


def test_losses_are_the_formulas():
  x, y = pair(samples=1500, channels=2)
  want = {
    "l1": np.abs(x.astype(np.float64) - y).mean(),
    "soundstream": reference_mel(x, y, "soundstream"),
    "encodec": reference_mel(x, y, "encodec"),
    "stft": reference_stft(x, y),
  }
  for name, value in want.items():
    got = jax.jit(LOSSES[name])(x, y)
    assert got.dtype == jnp.float32 and got.shape == ()
    np.testing.assert_allclose(got, value, rtol=2e-4, err_msg=name)


def test_papers_scales_are_the_defaults(monkeypatch):
  seen = []

  def record(x, window, *, normalized):
    seen.append((window, normalized))
    return jnp.ones((1, 1, 1, window // 2 + 1))

  monkeypatch.setattr(spectral, "_magnitudes", record)
  x, y = pair(1, 100)
  spectral.multi_scale_mel(x, y, rate=RATE)
  assert seen[::2] == [(2**i, False) for i in range(6, 12)]
  seen.clear()
  spectral.multi_scale_mel(x, y, rate=RATE, form="encodec")
  assert seen[::2] == [(2**i, True) for i in range(5, 12)]
  with pytest.raises(ValueError, match="form"):
    spectral.multi_scale_mel(x, y, rate=RATE, form="dac")


@pytest.mark.parametrize("name", LOSSES)
def test_padding_adds_nothing(name):
  """Masked = alone, values and gradients, whatever the padding holds."""
  x, y = pair(1, 2000)
  # 2000 = 15 * 128 + 80: the clip's last frames are centred before its end.
  alone, grad_alone = value_and_grad(name)(y, x, None)
  padding = np.full((1, 1000, 1), np.nan, np.float32)
  if name == "l1":
    padding = np.full_like(padding, 7.0)
  long_x = np.concatenate([x, padding], 1)
  long_y = np.concatenate([y, -padding], 1)
  mask = np.arange(3000)[None] < 2000
  value, grad = value_and_grad(name)(long_y, long_x, mask)
  np.testing.assert_allclose(value, alone, rtol=1e-5)
  np.testing.assert_allclose(grad[:, :2000], grad_alone, atol=1e-6)
  assert not np.asarray(grad[:, 2000:]).any()


@pytest.mark.parametrize("name", LOSSES)
def test_identity_is_zero_and_silence_is_finite(name):
  x, y = pair(1, 3000)
  value, grad = value_and_grad(name)(x, x, None)
  assert value == 0 and np.isfinite(grad).all()
  zero = np.zeros_like(x)
  for a, b in [(zero, zero), (x, zero), (zero, y)]:
    value, grad = value_and_grad(name)(b, a, None)
    assert np.isfinite(value) and np.isfinite(grad).all()
  _, grad = value_and_grad(name)(y, x, np.zeros((1, 3000), bool))
  assert not np.asarray(grad).any()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_the_slope(name):
  x, y = pair(1, 3000)
  _, grad = value_and_grad(name)(y, x, None)
  # Towards the target: along the gradient itself, the sharp corners that the
  # logarithm has near the zeros of a spectrum spoil any finite difference.
  step = 1e-2 * (x - y)
  up, _ = value_and_grad(name)(y + step, x, None)
  down, _ = value_and_grad(name)(y - step, x, None)
  np.testing.assert_allclose((up - down) / 2, np.sum(grad * step), rtol=0.05)
  assert up < down
