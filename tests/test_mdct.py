"""Tests of the lapped transform of spectral codecs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.models import spectral_bins
from mmdcodec.nn import mdct

# Eager, every operation would compile its own program.
mclt = jax.jit(mdct.mclt, static_argnums=1)
imdct = jax.jit(mdct.imdct, static_argnums=1)
imdct_piece = jax.jit(mdct.imdct_piece, static_argnums=1)


def noise(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape)


def direct(x, hop):
  """MDCT and MDST by their definition, in float64: [frames, hop] each."""
  count, n = len(x) // hop, np.arange(2 * hop)
  window = np.tile(np.sin(np.pi / (2 * hop) * (n + 0.5)), (count, 1))
  window[0, :hop] = n[:hop] >= hop // 2
  window[-1, hop:] = n[:hop] < hop // 2
  x = np.pad(x, hop // 2)
  frames = np.stack([x[t * hop : (t + 2) * hop] for t in range(count)]) * window
  angle = np.pi / hop * np.outer(n + 0.5 + hop / 2, np.arange(hop) + 0.5)
  scale = (2 / hop) ** 0.5
  return scale * frames @ np.cos(angle), scale * frames @ np.sin(angle)


@pytest.mark.parametrize("hop, count", [(480, 1), (480, 3), (6, 4), (2, 5)])
def test_transform_is_that_of_the_definition(hop, count):
  x = noise(hop * count)
  for found, expected in zip(
    mclt(np.float32(x), hop), direct(x, hop), strict=True
  ):
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_inverse_is_exact_to_the_ends_and_keeps_the_energy(count):
  x = np.float32(noise(2, 480 * count))
  bins, _ = mclt(x, 480)
  np.testing.assert_allclose(imdct(bins, 480), x, atol=3e-6)
  np.testing.assert_allclose(np.sum(bins**2), np.sum(x**2), rtol=1e-5)


@pytest.mark.parametrize("kind", ["noise", "square"])
def test_clips_of_any_length_come_back_with_their_energy(kind):
  """Through the codec's own layers: from 1 sample on, up to full scale."""
  lengths = np.array([1, 2, 479, 480, 481, 2403, 24000])
  shape = len(lengths), lengths.max(), 2
  if kind == "noise":
    x = np.random.default_rng(4).uniform(-1, 1, shape)
  else:
    x = np.where(np.arange(shape[1])[:, None] // [37, 100] % 2, 1, -1)
  heard = np.arange(shape[1]) < lengths[:, None]
  x = np.float32(x * heard[..., None])
  ends = -(-lengths // 480)

  def through(x):
    # With this exponent, nothing is compressed; the profile is 1.
    profile = spectral_bins.Profile(2, 480, parent=None)
    bins = spectral_bins.Analysis(480, profile, 1.0, parent=None)
    bins, _ = bins.init_with_output(jax.random.key(0), x, ends)
    bins = bins.reshape(*bins.shape[:2], 2, 2, 480)[:, :, 0]  # the MDCT
    valid = np.arange(bins.shape[1]) < ends[:, None]
    bins = bins * valid[..., None, None]
    back = spectral_bins.Synthesis(480, profile, parent=None)
    return bins, back.init_with_output(jax.random.key(0), bins, ends)[0]

  bins, y = (np.asarray(a, np.float64) for a in jax.jit(through)(x))
  # The largest error is about ten roundings; most are far smaller.
  np.testing.assert_allclose(y[:, : shape[1]], x, atol=2e-6)
  assert np.sqrt(np.mean((y[:, : shape[1]] - x) ** 2)) < 2e-7
  energy = np.sum(np.float64(x) ** 2, (1, 2))
  np.testing.assert_allclose(np.sum(bins**2, (1, 2, 3)), energy, rtol=1e-6)


def test_clips_of_a_batch_end_where_they_end():
  ends = np.array([5, 2, 1])
  x = noise(3, 5 * 48) * (np.arange(5 * 48) < 48 * ends[:, None])
  x = np.float32(x)
  both = mclt(x, 48, ends)
  valid = (np.arange(5) < ends[:, None])[..., None]
  y = imdct(both[0] * valid, 48, ends)
  for i, end in enumerate(ends):
    alone = mclt(x[i, : 48 * end], 48)
    for found, expected in zip(both, alone, strict=True):
      np.testing.assert_allclose(found[i, :end], expected, atol=1e-6)
    np.testing.assert_allclose(y[i, : 48 * end], x[i, : 48 * end], atol=2e-6)


def test_pieces_of_a_clip_are_those_of_the_whole():
  hop, half, count = 48, 24, 5
  x = np.float32(noise(hop * count))
  whole = mclt(x, hop)
  around = np.pad(x, half)
  pieces, audio, overlap = [], [], None
  for t in range(count):
    at = t * hop + half
    left = 1 if t == count - 1 else 2  # frames until the end
    pieces.append(
      mclt(
        around[at : at + hop],
        hop,
        left,
        before=around[at - half : at],
        after=around[at + hop : at + hop + half],
        starts=t == 0,
      )
    )
    y, tail, overlap = imdct_piece(
      whole[0][t : t + 1], hop, left, overlap=overlap, starts=t == 0
    )
    audio.append(y)
  for found, expected in zip(zip(*pieces, strict=True), whole, strict=True):
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)
  audio = np.concatenate([*audio, tail])[half:]
  np.testing.assert_allclose(audio, x, atol=2e-6)


def test_matrix_of_tpus_is_the_fft_of_others():
  x = np.float32(noise(3, 480))
  product = x @ np.asarray(mdct._basis(480))
  np.testing.assert_allclose(jax.jit(mdct.dct_iv)(x), product, atol=1e-5)


def test_a_tone_has_the_same_magnitude_in_each_frame():
  """The MDCT alone beats with the phase; with the MDST it does not."""
  t = np.arange(480 * 20)
  x = np.float32(np.sin(2 * np.pi * 0.0314 * t))
  cosines, sines = mclt(x, 480)
  magnitude = np.sqrt(np.sum(cosines**2 + sines**2, -1))[2:-2]
  assert np.ptp(magnitude) < 1e-3 * magnitude.mean()
  assert np.ptp(np.sum(cosines**2, -1)[2:-2]) > 1e-2 * magnitude.mean() ** 2


@pytest.mark.parametrize("hop, samples", [(5, 20), (6, 20)])
def test_other_lengths_are_refused(hop, samples):
  with pytest.raises(ValueError, match="expected whole frames"):
    mdct.mclt(jnp.zeros(samples), hop)


def test_gradient_is_the_transpose():
  """Of an orthogonal transform, so it is the inverse."""
  x, pull = np.float32(noise(480)), np.float32(noise(10, 48, seed=1))
  _, back = jax.vjp(lambda x: mclt(x, 48)[0], x)
  np.testing.assert_allclose(back(pull)[0], imdct(pull, 48), atol=2e-6)
