"""Each defect that distances do not hear moves the measure made for it.

A broken codec is a function of the signals: it modulates at the frame rate, has
a transform whose windows do not match, a noise floor, a hole in its response,
or two channels that changed places.
"""

import jax
import numpy as np
import pytest

from mmdcodec.evaluate import artefacts
from mmdcodec.nn import mdct

RATE, FRAME = 8000, 160


def probe(code, channels=1):
  return artefacts.probe(
    code, rate=RATE, channels=channels, frame_rate=RATE / FRAME
  ).values


def noise(x, level):
  return level * np.random.default_rng(1).standard_normal(x.shape)


def test_a_perfect_codec_has_no_artefacts():
  found = probe(lambda x: x, channels=2)
  assert set(found) == set(artefacts.MEASURES)
  assert found["comb"] < -90
  assert found["pre_echo"] == found["silence"] == -120
  assert abs(found["sweep_level"]) < 1e-3 and found["sweep_rest"] < -50
  assert found["image_level"] < 1e-3 and found["image_correlation"] < 1e-6


@pytest.mark.parametrize("depth", [0.1, 0.001])
def test_comb_of_a_decoder_that_modulates_at_the_frame_rate(depth):
  """Two lines of half the depth each; a distance does not hear the smaller."""

  def modulating(x):
    t = np.arange(x.shape[1])[:, None]
    return x * (1 + depth * np.cos(2 * np.pi * t / FRAME))

  expected = 10 * np.log10(2 * (depth / 2) ** 2)
  assert probe(modulating)["comb"] == pytest.approx(expected, abs=0.5)


def test_comb_of_a_decoder_that_repeats_a_frame():
  """All of its energy is at multiples of the frame rate."""
  found = probe(lambda x: np.tile(x[:, 400 : 400 + FRAME], (1, 100, 1)))
  assert -3 < found["comb"] < 1


def test_noise_is_no_comb():
  """Noise 20 dB below the tone."""
  found = probe(lambda x: x + noise(x, 0.0177))
  assert found["comb"] < -35


def transform(windows=None):
  """Through the MDCT and back, the inverse with other windows."""

  def code(x):
    x = np.moveaxis(x, -1, 1)
    bins, _ = jax.jit(mdct.mclt, static_argnums=1)(x, FRAME)
    with pytest.MonkeyPatch.context() as patch:
      if windows is not None:
        patch.setattr(mdct, "_windows", windows)
      back = jax.jit(lambda bins: mdct.imdct(bins, FRAME))(bins)
    return np.moveaxis(np.asarray(back), 1, -1)

  return code


def test_pre_echo_and_mirrors_of_a_transform_with_wrong_windows():
  """Without the window of the inverse, aliasing does not cancel."""
  right = probe(transform())
  flat = probe(transform(lambda *_: (0.5**0.5,) * 4))
  assert right["pre_echo"] < -90 and flat["pre_echo"] > -12
  assert right["sweep_rest"] < -50 and flat["sweep_rest"] > -25
  assert right["comb"] < -90 and flat["comb"] > -30


def test_silence_of_a_decoder_with_a_noise_floor():
  found = probe(lambda x: x + noise(x, 1e-3))
  assert found["silence"] == pytest.approx(-60, abs=0.1)


def test_a_hole_in_the_response_and_an_alias():
  def without(low, high):
    def code(x):
      spectrum = np.fft.rfft(x, axis=1)
      hz = np.fft.rfftfreq(x.shape[1], 1 / RATE)
      spectrum[:, (hz >= low) & (hz < high)] *= 0.1
      return np.fft.irfft(spectrum, x.shape[1], 1)

    return code

  assert probe(without(1000, 2000))["sweep_level"] == pytest.approx(-20, abs=1)
  assert abs(probe(without(3900, 4000))["sweep_level"]) < 0.5

  def mirrored(x):
    """Every other sample is weaker: f also sounds at rate / 2 - f."""
    return x * np.where(np.arange(x.shape[1]) % 2, 0.9, 1.1)[:, None]

  assert probe(mirrored)["sweep_rest"] == pytest.approx(-20, abs=1)


def test_image_of_channels_that_change_places_or_are_one():
  swapped = probe(lambda x: x[..., ::-1], channels=2)
  # By 24 dB in two thirds of the clip; the correlation stays.
  assert swapped["image_level"] > 12
  assert swapped["image_correlation"] < 1e-6
  folded = probe(
    lambda x: np.repeat(x.mean(-1, keepdims=True), 2, -1), channels=2
  )
  assert folded["image_level"] > 6 and folded["image_correlation"] > 0.2
  # The mono signals are none the worse for either.
  assert folded["comb"] < -90 and swapped["pre_echo"] == -120


def test_measures_of_a_codec_that_decodes_to_silence_are_finite():
  found = probe(np.zeros_like, channels=2)
  assert all(np.isfinite(value) for value in found.values())
  assert found["sweep_level"] == found["silence"] == -120
