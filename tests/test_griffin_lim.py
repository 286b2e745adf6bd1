"""Tests of spectra with overlapping windows, and of phases found for them.

Must catch: windows that are not where the frames are; an inverse that is not
exact at the ends; phases that do not converge; a clip that depends on padding,
or on music farther away than `context`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.nn import griffin_lim as lib

HOP = 40
# Eager, every operation would compile its own program.
spectra = jax.jit(lib.spectra, static_argnums=1)
overlap_add = jax.jit(lib.overlap_add, static_argnums=1)
find = jax.jit(lib.griffin_lim, static_argnums=(1, 2))


def noise(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tones(count):
  """Two steady tones and a third that begins in the middle."""
  t = np.arange(count * HOP)
  x = np.sin(0.31 * t) + 0.5 * np.sin(0.8 * t + 1)
  x += np.where(t > t[-1] / 2, np.sin(1.7 * t), 0)
  return x[None, None].astype(np.float32)


def direct(x, hop):
  """The spectra by their definition, in float64: [2 * frames, bins]."""
  size, step = 4 * hop, hop // 2
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
  middles = step * (np.arange(len(x) // step) + 0.5)
  x = np.pad(x.astype(np.float64), size)
  begin = (middles - size / 2 + size).astype(int)
  windows = np.stack([x[i : i + size] * window for i in begin])
  turn = np.outer(np.arange(size), np.arange(size // 2 + 1))
  return windows @ np.exp(-2j * np.pi / size * turn)


@pytest.mark.parametrize("hop, count", [(4, 5), (40, 1), (40, 3)])
def test_spectra_are_those_of_the_definition(hop, count):
  x = noise(hop * count)
  found, want = spectra(x, hop), direct(x, hop)
  assert found.shape == (2 * count, lib.bins(hop))
  np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("count", [1, 2, 9])
def test_inverse_is_exact_to_the_ends(count):
  x = noise(2, 3, HOP * count)
  np.testing.assert_allclose(overlap_add(spectra(x, HOP), HOP), x, atol=1e-5)


def test_energy_is_that_of_white_noise():
  power = np.abs(np.asarray(spectra(noise(400 * HOP), HOP))) ** 2
  inner = power[10:-10, 1:-1].mean()
  assert inner == pytest.approx(lib.energy(HOP), rel=0.03)


def misfit(y, magnitudes):
  """How far magnitudes of audio are from given ones, in dB."""
  error = np.abs(np.asarray(spectra(y, HOP))) - magnitudes
  return 10 * np.log10((error**2).sum() / (magnitudes**2).sum())


def test_phases_converge():
  """Magnitudes within 2% after 32 iterations, far more than after 2."""
  magnitudes = np.abs(np.asarray(spectra(tones(40), HOP)))
  few, many = (
    misfit(find(magnitudes, HOP, count), magnitudes) for count in (2, 32)
  )
  assert many < -15 and many < few - 5


def test_a_padded_clip_is_the_same_alone():
  """Catches windows after the end of a clip that count, and its neighbours."""
  x = np.zeros((2, 1, 12 * HOP), np.float32)
  x[0, 0], x[1, 0, : 5 * HOP] = noise(12 * HOP), noise(5 * HOP, seed=1)
  ends = np.array([12, 5])
  magnitudes = np.abs(np.asarray(spectra(x, HOP)))
  magnitudes[1, :, 10:] = 0
  both = find(magnitudes, HOP, 3, ends)
  for i, end in enumerate(ends):
    alone = find(magnitudes[i : i + 1, :, : 2 * end], HOP, 3)
    np.testing.assert_allclose(
      both[i : i + 1, :, : end * HOP], alone, atol=1e-4
    )


@pytest.mark.parametrize("iterations", [0, 2])
def test_audio_depends_on_its_context_alone(iterations):
  """Also catches a context that is longer than it needs to be by a frame."""
  count, at = 60, 30
  magnitudes = jnp.asarray(np.abs(spectra(noise(1, 1, count * HOP), HOP)))

  @jax.jit
  def gradient(magnitudes):
    take = lambda m: lib.griffin_lim(m, HOP, iterations)[
      0, 0, at * HOP : (at + 1) * HOP
    ]
    # Not a sum, in which two halves may cancel.
    return jax.grad(lambda m: (take(m) ** 2).sum())(magnitudes)

  slope = np.abs(np.asarray(gradient(magnitudes)))[0, 0]
  frames = np.flatnonzero(slope.reshape(count, -1).max(1) > 0)
  reach = lib.context(iterations)
  assert (frames[0], frames[-1]) == (at - reach, at + reach)


def test_frames_that_are_not_whole():
  with pytest.raises(ValueError, match="multiple of 4 samples"):
    lib.spectra(jnp.zeros(30), 30)
  with pytest.raises(ValueError, match="whole frames"):
    lib.spectra(jnp.zeros(50), 40)
