"""Spectral codecs that code magnitudes alone.

Batches, long clips and exports are tested together with those of other codecs,
the phases in test_griffin_lim.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_codec_model import random_variables

from mmdcodec.errors import UserError
from mmdcodec.losses import spectral
from mmdcodec.models import codec, spectral_bins, streaming
from mmdcodec.models.spectral_bins import Profile
from mmdcodec.models.spectral_magnitudes import (
  MagnitudeAnalysis,
  MagnitudeSynthesis,
)
from mmdcodec.nn import griffin_lim

HOP = 40


def tiny(**changes):
  changes = {"phase_iterations": 2, **changes}
  return codec.from_config(codec.preset("spectral_tiny", **changes))


def noise(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def analyse(x, compression=1.0):
  profile = Profile(x.shape[2], griffin_lim.bins(HOP))
  model = MagnitudeAnalysis(HOP, profile, compression)
  return jax.jit(lambda x: model.apply(model.init(jax.random.key(0), x), x))(x)


@pytest.mark.parametrize("channels", [1, 2])
def test_magnitudes_with_the_phases_of_the_original_are_the_original(channels):
  """Catches channels, spectra or bins in another order on the way back."""
  x = noise(2, 5 * HOP, channels)
  bins = griffin_lim.bins(HOP)
  levels = jnp.log(analyse(x)).reshape(2, 5, 2, channels, bins)
  model = MagnitudeSynthesis(HOP, Profile(channels, bins), 2)

  @jax.jit
  def synthesize(levels, x):
    variables = model.init(jax.random.key(0), levels)
    return model.apply(variables, levels, None, x)

  np.testing.assert_allclose(synthesize(levels, x), x, atol=1e-3)


def test_a_steady_tone_has_steady_magnitudes():
  """Which is what it is for: bins with phases turn from frame to frame."""
  t = np.arange(30 * HOP)
  x = np.sin(0.7 * t).astype(np.float32)[None, :, None]
  m = np.asarray(analyse(x))[0, 5:-5]
  assert np.abs(m - m.mean(0)).max() < 0.01 * m.max()
  lapped = spectral_bins.Analysis(HOP, Profile(1, HOP), 1.0)
  z = jax.jit(lambda x: lapped.apply(lapped.init(jax.random.key(0), x), x))(x)
  z = np.asarray(z)[0, 5:-5]
  assert np.abs(z - z.mean(0)).max() > 0.5 * np.abs(z).max()


def test_training_learns_magnitudes_alone():
  """The audio of training has the phases of the original, other audio not."""
  model = tiny()
  variables = random_variables(model)
  x = 0.1 * noise(1, 20 * model.stride, 1)

  @jax.jit
  def both(x):
    train, _ = model.apply(
      variables, x, train=True, rngs={"quantize": jax.random.key(0)},
      mutable=["codebook"],
    )  # fmt: skip
    return train.audio, model.apply(variables, x).audio

  phases = lambda x: jnp.angle(
    griffin_lim.spectra(jnp.swapaxes(x, 1, 2), model.stride)
  )
  near = [
    np.cos(np.asarray(phases(y) - phases(x)))[..., 1:-1].mean() for y in both(x)
  ]
  assert near[0] > 0.7 and abs(near[1]) < 0.3


def test_gradients_are_finite_at_silence_and_not_zero():
  model = tiny()
  variables = random_variables(model)
  x = np.zeros((2, 400, 1), np.float32)
  x[1, 199] = 1.0

  @jax.jit
  def gradient(params):
    def loss(params):
      out, _ = model.apply(
        {**variables, "params": params}, x, train=True,
        rngs={"quantize": jax.random.key(0)}, mutable=["codebook"],
      )  # fmt: skip
      pair = x, out.audio
      total = spectral.multi_scale_mel(*pair, rate=8000, windows=(128,))
      return total + spectral.waveform_l1(*pair) + out.commitment

    return jax.grad(loss)(params)

  found = gradient(variables["params"])
  for leaf in jax.tree.leaves(found):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


def test_silence_is_learned():
  """Catches silent bins without a phase, whose levels would get no gradient."""
  bins = griffin_lim.bins(HOP)
  model = MagnitudeSynthesis(HOP, Profile(1, bins), 2)
  levels = jnp.zeros((1, 4, 2, 1, bins))

  @jax.jit
  def gradient(levels):
    variables = model.init(jax.random.key(0), levels)
    silence = jnp.zeros((1, 4 * HOP, 1))
    loss = lambda levels: jnp.abs(
      model.apply(variables, levels, None, silence)
    ).mean()
    return jax.grad(loss)(levels)

  assert (np.abs(gradient(levels)).max(-1) > 0).all()


def test_the_profile_is_that_of_magnitudes():
  """Of white noise it is the usual magnitude, for every bin."""
  x = 0.1 * noise(8, 100 * HOP, 1)
  sums = jax.jit(
    lambda x: spectral_bins.level_sums(
      x, jnp.full(8, 100), HOP, magnitudes=True
    )
  )(x)
  profile = spectral_bins.profile_of(*map(np.asarray, sums))
  assert profile.shape == (1, griffin_lim.bins(HOP))
  rayleigh = np.exp(-np.euler_gamma / 2) * griffin_lim.energy(HOP) ** 0.5
  # Not the first and the last bin, which are real.
  np.testing.assert_allclose(profile[0, 6:-6], 0.1 * rayleigh, rtol=0.1)
  quiet = jax.jit(
    lambda x: spectral_bins.level_sums(
      x, jnp.full(8, 100), HOP, magnitudes=True
    )
  )(1e-3 * x)
  assert not quiet[1].any()


def test_what_such_a_codec_cannot_do():
  with pytest.raises(UserError, match="set causal=False, or phase_iterations"):
    tiny(causal=True)
  with pytest.raises(UserError, match="a multiple of 4"):
    tiny(ratios=(5, 2)).network  # noqa: B018
  with pytest.raises(UserError, match="can't be streamed"):
    streaming.check(tiny())


def test_older_bundles_have_coded_phases():
  fields = codec.preset("spectral_tiny")
  del fields["phase_iterations"]
  assert codec.from_config(fields) == codec.from_config(
    codec.preset("spectral_tiny")
  )
