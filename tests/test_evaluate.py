"""Measures and plots: defects that these tests must catch.

A measure with the wrong scale, sign or base of the logarithm; one that moves
with the loudness, or with padding; silence that ends in NaN; entropy of the
wrong distribution; a plot that is empty, swaps its two sides, or has a scale
of colours for each side.
"""

import io
import json
import math

import numpy as np
import pytest

from mmdcodec.evaluate import (
  audio_plots,
  codebook_plots,
  codebooks,
  reconstruction,
  training_plots,
)

RATE = 16000
PNG = b"\x89PNG\r\n"


def noise(seed, shape=(3, 4096, 1)):
  x = np.random.default_rng(seed).normal(size=shape)
  return 0.1 * x + 0.05


# --- Reconstruction ----------------------------------------------------------


def test_si_sdr_against_float64():
  """The projection, the mean, the channels, the logarithm."""
  x = noise(0, (4, 4096, 2))
  level = np.array([1e-4, 1e-2, 1.0, 30.0])[:, None, None]
  y = -3 * x + level * noise(1, x.shape) + 0.2
  expected = []
  for a, b in zip(x, y, strict=True):
    a, b = (np.ravel(u - u.mean(0)) for u in (a, b))
    target = np.dot(a, b) / np.dot(a, a) * a
    expected.append(
      10 * np.log10(np.sum(target**2) / np.sum((b - target) ** 2))
    )
  assert expected[0] > 80 and expected[3] < -10
  # Float32 samples: rounding is heard at 140 dB.
  np.testing.assert_allclose(
    reconstruction.si_sdr(x, y), expected, rtol=1e-3, atol=1e-3
  )
  np.testing.assert_allclose(
    reconstruction.si_sdr(x, 1e-2 * y), expected, rtol=1e-3, atol=1e-3
  )
  # Orthogonal noise of known power: exactly 10 log10 of the ratio.
  t = np.arange(4096) * 2 * np.pi / 4096
  x = np.sin(8 * t)[None, :, None]
  y = x + 0.1 * np.cos(8 * t)[None, :, None]
  np.testing.assert_allclose(reconstruction.si_sdr(x, y), 20.0, atol=1e-3)


def test_silence_is_finite():
  """NaN or infinity where there is nothing to compare with."""
  x, zero = noise(0), np.zeros((3, 4096, 1))
  for a, b in ((zero, zero), (x, zero), (zero, x), (x, x)):
    found = reconstruction.compare(a, b, RATE)
    assert all(np.isfinite(v).all() for v in found.values())
  np.testing.assert_array_equal(reconstruction.si_sdr(x, zero), -100)
  np.testing.assert_array_equal(reconstruction.si_sdr(zero, x), 0)
  assert (reconstruction.si_sdr(x, x) > 90).all()
  for a in (zero, x):
    found = reconstruction.compare(a, a, RATE)
    for name in ("mel_distance", "stft_distance"):
      np.testing.assert_allclose(found[name], 0, atol=1e-4)


def spectra(x, window):
  """Magnitudes [channels, frames, bins] in float64, frames centred on hops."""
  x = np.pad(x.T, ((0, 0), (window // 2, window // 2)))
  frames = np.lib.stride_tricks.sliding_window_view(x, window, 1)
  hann = np.sin(np.pi * np.arange(window) / window) ** 2
  return np.abs(np.fft.rfft(frames[:, :: window // 4] * hann)), hann


def test_distances_against_float64():
  """Another scale of the bands or windows, and means that are sums of means."""
  import librosa

  # Two channels of different levels, and bands in which only one is heard.
  x = noise(7, (2, 4096, 2)) * np.array([1.0, 0.01])
  t = np.arange(4096)[:, None] / RATE
  y = 0.3 * x + noise(8, x.shape) * np.array([1e-3, 0.1])
  y[1] = 0.1 * np.sin(2 * np.pi * 3000 * t)
  found = reconstruction.compare(x, y, RATE)
  for i in range(2):
    mel, stft = [], []
    for window in (512, 1024, 2048):
      bands = librosa.filters.mel(
        sr=RATE, n_fft=window, n_mels=80, dtype=np.float64
      ).T
      (a, hann), (b, _) = spectra(x[i], window), spectra(y[i], window)
      level = lambda s, bands=bands: np.log10(np.maximum(s @ bands, 1e-5))
      mel.append(20 * np.abs(level(a) - level(b)).mean())
      a, b = (s / np.sqrt((hann**2).sum()) for s in (a, b))
      stft.append(
        np.linalg.norm(a - b) / np.linalg.norm(a)
        + np.abs(np.log(a + 1e-5) - np.log(b + 1e-5)).mean()
      )
    for name, values in (("mel_distance", mel), ("stft_distance", stft)):
      np.testing.assert_allclose(found[name][i], np.mean(values), rtol=1e-3)


def test_distances_of_a_gain():
  """Units: a gain of 10 is 20 dB in every band, and ln 10 in every bin."""
  x = noise(2)
  found = reconstruction.compare(x, 10 * x, RATE)
  # Bands below the floor (no bin in a narrow filter) count as equal.
  np.testing.assert_allclose(found["mel_distance"], 20.0, rtol=0.06)
  np.testing.assert_allclose(
    found["stft_distance"], 9 + math.log(10), rtol=1e-3
  )
  quieter = reconstruction.compare(x, 0.5 * x, RATE)
  np.testing.assert_allclose(
    quieter["stft_distance"], 0.5 + math.log(2), rtol=1e-3
  )


def test_worse_is_worse():
  """A measure with the wrong sign, or deaf to noise."""
  x = noise(3)
  found = [
    reconstruction.compare(x, x + s * noise(4), RATE) for s in (0.01, 0.1, 1.0)
  ]
  for name, sign in (("si_sdr", -1), ("mel_distance", 1), ("stft_distance", 1)):
    values = np.stack([sign * f[name] for f in found])
    assert (np.diff(values, axis=0) > 0).all(), name


def test_padded_equals_alone():
  """Padding that is measured, or a mean over the padded length."""
  x, y = noise(5), noise(6)
  lengths = np.array([4096, 3001, 1])
  found = reconstruction.compare(x, y, RATE, lengths)
  alone = reconstruction.compare(x[1:2, :3001], y[1:2, :3001], RATE)
  for name, value in alone.items():
    np.testing.assert_allclose(found[name][1], value[0], rtol=1e-5)


def test_shapes_that_differ():
  """Broadcasting a mono original against a stereo reconstruction."""
  with pytest.raises(ValueError, match="must both be"):
    reconstruction.si_sdr(noise(0), noise(0, (3, 4096, 2)))


# --- Codes -------------------------------------------------------------------


def test_usage_perplexity_and_entropy():
  """Known distributions; levels mixed up; bits counted in nats."""
  codes = np.zeros((2, 40, 3), np.int32)
  codes[..., 1] = np.arange(40) % 8  # uniform over 8 of 16
  codes[..., 2] = np.array([0, 0, 1, 2])[np.arange(40) % 4]  # 1/2 1/4 1/4
  found = codebooks.statistics(codebooks.histogram(codes, 16))
  usage, perplexity = found["usage"], found["perplexity"]
  np.testing.assert_allclose(usage, [1 / 16, 8 / 16, 3 / 16])
  np.testing.assert_allclose(perplexity, [1, 8, 2**1.5])
  counts = codebooks.histogram(codes, 16)
  np.testing.assert_array_equal(counts.sum(1), 80)
  np.testing.assert_allclose(codebooks.entropy(counts), [0, 3, 1.5])
  assert codebooks.entropy_bits_per_second(50, counts) == pytest.approx(225)

  half = np.stack([np.arange(40) < 20, np.arange(40) < 0])
  masked = codebooks.histogram(codes, 16, half)
  np.testing.assert_array_equal(masked, codebooks.histogram(codes[:1, :20], 16))
  nothing = codebooks.statistics(np.zeros((2, 16)))
  np.testing.assert_array_equal(nothing["usage"], 0)
  np.testing.assert_array_equal(nothing["perplexity"], 1)


# --- Plots -------------------------------------------------------------------


def pixels(data):
  from matplotlib import image

  assert data.startswith(PNG)
  return image.imread(io.BytesIO(data))[..., :3]


def test_spectrograms():
  """Titles swapped, or each recording on its own scale of colours."""
  t = np.arange(RATE) / RATE
  loud = np.sin(2 * np.pi * 1000 * t)
  drawn = audio_plots.spectrograms(
    {"loud": loud[:, None], "soft": 1e-3 * np.stack([loud, loud], 1)},
    rate=RATE,
  )
  assert list(drawn) == ["loud", "soft"]

  def hot(data):
    """Pixels of the hottest colour; the bar of colours is at the right."""
    image = pixels(data)[:, : int(0.8 * 728)]
    return (
      (image[..., 0] > 0.95) & (image[..., 2] > 0.5) & (image[..., 2] < 0.8)
    ).sum()

  assert hot(drawn["loud"]) > 500
  assert hot(drawn["soft"]) < hot(drawn["loud"]) / 20


def test_curves(tmp_path):
  """A half-written line or a null value that ends in an error; no lines."""
  rows = [
    {"step": s, "train/loss": 1 / s, "train/use/0": 0.5, "train/use/1": 0.9}
    for s in range(10, 60, 10)
  ]
  rows += [{"step": 50, "valid/loss": 0.5, "valid/si_sdr": None}]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "metrics.jsonl").write_text(text + '{"step": 60, "tr')
  image = pixels(training_plots.curves(tmp_path))
  blue = (image[..., 2] > 0.8) & (image[..., 0] < 0.3)
  orange = (image[..., 0] > 0.8) & (image[..., 2] < 0.3)
  assert blue.sum() > 100 and orange.sum() > 10
  (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
  with pytest.raises(ValueError, match="no measures"):
    training_plots.curves(tmp_path / "metrics.jsonl")


def test_codebook_usage():
  """Bars of the wrong height; many levels or no counts that fail."""
  counts = np.zeros((2, 64))
  counts[0, :32] = 10
  counts[1] = 10
  image = pixels(codebook_plots.codebook_usage(counts))
  blue = np.abs(image - np.array([0x2B, 0x5F, 0xD9]) / 255).max(-1) < 0.05
  # Columns of blue in the right half: half of the codes and all of them. The
  # patch of the legend is a few pixels high.
  heights = blue[:, image.shape[1] // 2 :].sum(0)
  high = np.unique(heights[heights > 30])
  assert high.min() / high.max() == pytest.approx(0.5, abs=0.05)
  pixels(codebook_plots.codebook_usage(np.zeros((12, 16))))


def test_code_picture():
  """Codebooks upside down, time backwards, colors of another codebook's size.

  Turbo is dark blue at 0 and dark red at 1; in between there is neither.
  """
  codes = np.tile([8, 16], (40, 1))
  codes[:10, 0] = 15  # the last one of the first codebook, early
  codes[30:, 1] = 0  # the first one of the second codebook, late
  image = pixels(
    codebook_plots.code_picture(codes, sizes=[16, 32], frame_rate=20.0)
  )
  spots = []
  for color in ((0x7A, 0x04, 0x03), (0x30, 0x12, 0x3B)):
    near = np.abs(image - np.array(color) / 255).max(-1) < 0.05
    y, x = np.nonzero(near)
    # A full rectangle.
    assert near.sum() > 0.9 * (np.ptp(x) + 1) * (np.ptp(y) + 1) > 100
    spots.append((x.min(), x.max(), y.min(), y.max()))
  (left, right, top, bottom), (*ends, low, lowest) = spots
  assert right < ends[0] and bottom < low
  np.testing.assert_allclose(
    [right - left, ends[1] - ends[0]], (ends[1] - left) / 4, atol=2
  )
  np.testing.assert_allclose(bottom - top, lowest - low, atol=2)
