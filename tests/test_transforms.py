"""Spectra: must catch any departure from librosa and any gradient of NaN.

Framing off by one, window not periodic, wrong padding, wrong mel scale or
area, chroma rolled or centred elsewhere, infinite gradients at silence.
"""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from mmdcodec.audio import transforms


def music(rate, samples=6000, batch=2):
  rng = np.random.default_rng(0)
  t = np.arange(samples) / rate
  hz = 440 * 2 ** (rng.integers(-24, 24, (batch, 5, 1)) / 12)
  x = np.sin(2 * np.pi * hz * t).mean(1)
  return (x + 0.05 * rng.normal(size=x.shape)).astype(np.float32)


def close(ours, librosas):
  """Within 1e-4 of the largest value."""
  ours, librosas = np.asarray(ours), np.swapaxes(librosas, -1, -2)
  assert ours.shape == librosas.shape
  scale = max(1.0, np.abs(librosas).max())
  np.testing.assert_allclose(ours, librosas, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize(
  "window, hop", [(512, 128), (64, 16), (400, 160), (256, 256), (441, 147)]
)
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_stft_is_librosas(window, hop, center, platform, monkeypatch):
  monkeypatch.setattr(transforms.platform, "traced_for", lambda: platform)
  x = music(24000)
  want = librosa.stft(x, n_fft=window, hop_length=hop, center=center)
  got = transforms.stft(x, window=window, hop=hop, center=center)
  close(got, want)
  scaled = transforms.stft(
    x, window=window, hop=hop, center=center, normalized=True
  )
  scale = np.sqrt(np.sum(transforms.hann(window) ** 2))
  np.testing.assert_allclose(scaled * scale, got, atol=1e-3)


def test_spectra_of_tpus_are_those_of_others(monkeypatch):
  """Catches a matrix product of other numbers or gradients than the FFT."""
  x = music(8192)

  runs = []
  for name in ("cpu", "tpu"):
    monkeypatch.setattr(
      transforms.platform, "traced_for", lambda name=name: name
    )

    def loss(x):
      y = transforms.stft(x, window=2048, hop=512)
      return jnp.sum(jnp.abs(y) ** 0.5), y

    text = str(jax.make_jaxpr(loss)(x))
    assert ("dot_general" in text) == (name == "tpu")
    # A TPU's default is bfloat16, which no CPU can show.
    assert ("Precision.HIGHEST" in text) == (name == "tpu")
    runs.append(jax.value_and_grad(loss, has_aux=True)(x))
  ((_, fft), pull), ((_, product), product_pull) = runs
  # float64 says how far each of them is from the truth.
  padded = jnp.pad(x, ((0, 0), (1024, 1024)))
  pieces = np.asarray(transforms.frame(padded, window=2048, hop=512))
  exact = np.fft.rfft(pieces.astype(np.float64) * transforms.hann(2048))
  size = np.abs(exact).max()
  assert np.abs(fft - exact).max() < 1e-6 * size
  assert np.abs(product - exact).max() < 1e-6 * size
  error = np.linalg.norm(product_pull - pull)
  assert error < 1e-3 * np.linalg.norm(pull)


def test_long_windows_stay_ffts_on_tpus(monkeypatch):
  """Catches a matrix of a gigabyte for the window of a chromagram."""
  monkeypatch.setattr(transforms.platform, "traced_for", lambda: "tpu")
  x = jax.ShapeDtypeStruct((40000,), jnp.float32)
  spectrum = lambda x: transforms.stft(x, window=16384, hop=4096)
  assert "dot_general" not in str(jax.make_jaxpr(spectrum)(x))


def test_normalized_stft_keeps_the_power_of_noise():
  x = np.random.default_rng(0).normal(size=40000).astype(np.float32)
  for window in (64, 1024):
    y = transforms.stft(x, window=window, hop=window // 4, normalized=True)
    assert abs(np.mean(np.abs(y) ** 2) - 1) < 0.06


@pytest.mark.parametrize(
  "rate, window, hop, mels, fmin, fmax, exponent",
  [
    (24000, 1024, 256, 64, 0, None, 2.0),
    (22050, 2048, 512, 128, 0, None, 2.0),
    (16000, 400, 160, 80, 60, 7600, 1.0),
    (48000, 512, 128, 40, 20, 16000, 2.0),
    (24000, 64, 16, 64, 0, None, 1.0),
  ],
)
@pytest.mark.filterwarnings("ignore:Empty filters")
def test_mel_is_librosas(rate, window, hop, mels, fmin, fmax, exponent):
  x = music(rate)
  filters = librosa.filters.mel(
    sr=rate, n_fft=window, n_mels=mels, fmin=fmin, fmax=fmax
  )
  ours = transforms.mel_filters(rate, window, mels, fmin, fmax)
  np.testing.assert_allclose(ours, filters.T, atol=1e-7)
  kwargs = dict(rate=rate, window=window, hop=hop, mels=mels, fmin=fmin)
  kwargs.update(fmax=fmax, exponent=exponent)
  want = librosa.feature.melspectrogram(
    y=x,
    sr=rate,
    n_fft=window,
    hop_length=hop,
    n_mels=mels,
    fmin=fmin,
    fmax=fmax,
    power=exponent,
  )
  close(transforms.mel(x, **kwargs), want)
  to_db = librosa.power_to_db if exponent == 2 else librosa.amplitude_to_db
  amin = 1e-6 if exponent == 2 else 1e-3
  for top in (None, 30):
    level = transforms.log_mel(x[0], floor=amin, top=top, **kwargs)
    close(level, to_db(want[0], ref=1.0, amin=amin, top_db=top))


def test_mel_scale_inverts_and_is_linear_below_1_khz():
  hz = np.array([0.0, 100, 999, 1000, 1001, 6400, 12000])
  back = transforms.mel_to_hz(transforms.hz_to_mel(hz))
  np.testing.assert_allclose(back, hz, atol=1e-9)
  np.testing.assert_allclose(transforms.hz_to_mel([500, 6400]), [7.5, 42])


def test_how_many_filters_are_empty_is_as_documented():
  empty = {
    w: int((transforms.mel_filters(24000, w, 64).sum(0) == 0).sum())
    for w in (64, 1024, 2048)
  }
  assert empty == {64: 24, 1024: 0, 2048: 0}
  # Yet every bin between the edges is in some filter: nothing goes unheard.
  covered = transforms.mel_filters(24000, 64, 64).sum(1) > 0
  assert covered[1:-1].all()


@pytest.mark.parametrize(
  "rate, window, hop",
  [(24000, 4096, 1024), (22050, 2048, 512), (32000, 16384, 4096)],
)
def test_chroma_is_librosas(rate, window, hop):
  x = music(rate, samples=2 * window)
  for normalize in (True, False):
    want = librosa.feature.chroma_stft(
      y=x,
      sr=rate,
      n_fft=window,
      hop_length=hop,
      tuning=0.0,
      norm=np.inf if normalize else None,
    )
    got = transforms.chroma(
      x, rate=rate, window=window, hop=hop, normalize=normalize
    )
    close(got, want)


def test_chroma_names_the_note():
  rate = 24000
  t = np.arange(rate) / rate
  for pitch in (57, 60, 76):
    x = np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * t)
    y = transforms.chroma(
      x.astype(np.float32), rate=rate, window=4096, hop=2048
    )
    assert (np.asarray(y)[2:-2].argmax(-1) == pitch % 12).all()
  assert not np.asarray(
    transforms.chroma(jnp.zeros(9000), rate=rate, window=4096, hop=2048)
  ).any()


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_gradients_at_silence_are_finite(exponent):
  kwargs = dict(rate=24000, window=256, hop=64)

  def total(x):
    y = transforms.mel(x, mels=20, exponent=exponent, **kwargs).sum()
    y += transforms.log_mel(x, mels=20, exponent=exponent, **kwargs).sum()
    return y + transforms.chroma(x, **kwargs).sum()

  # Half silence, half sound: the sounding half must still have a gradient.
  x = jnp.zeros(2000).at[1000:].set(music(24000)[0, :1000])
  grad = np.asarray(jax.grad(total)(x))
  assert np.isfinite(grad).all() and np.abs(grad[1500:]).max() > 0
  assert np.isfinite(np.asarray(jax.grad(total)(jnp.zeros(2000)))).all()


def test_too_short_says_so():
  with pytest.raises(ValueError, match="fill"):
    transforms.stft(jnp.zeros(10), window=64, hop=16, center=False)
