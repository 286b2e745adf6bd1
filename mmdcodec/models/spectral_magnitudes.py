"""What the networks of a spectral codec without coded phases see of audio.

`MagnitudeAnalysis` turns audio into whitened, compressed magnitudes of two
spectra a frame, `MagnitudeSynthesis` such magnitudes into audio. Their phases
are found by `mmdcodec.nn.griffin_lim`, or are those of other audio: in training
the original's, so that losses compare audio that differs in magnitudes alone.
Stereo is coded as middle and side.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec.models.spectral_bins import (
  LOUDEST,
  SILENCE,
  Profile,
  matrixed,
)
from mmdcodec.nn import griffin_lim
from mmdcodec.nn.conv import length_mask, mask_after

# Power of a bin below which it has no phase.
FAINTEST = 1e-20


class MagnitudeAnalysis(nn.Module):
  """Magnitudes of audio, whitened and compressed.

  Attributes:
    hop: samples per frame.
    profile: the usual magnitudes.
    compression: exponent of the magnitudes.
  """

  hop: int
  profile: Profile
  compression: float

  @nn.compact
  def __call__(self, x: jax.Array, ends: jax.Array | None = None) -> jax.Array:
    """Returns the magnitudes of each frame.

    Args:
      x: float32 [batch, samples, channels], zero after the end of a clip.
      ends: [batch] frames of each clip; they change nothing, as x is zero.

    Returns:
      float32 [batch, frames, 2 * channels * bins].
    """
    del ends
    spectra = _spectra(x, self.hop) / self.profile()[:, None]
    power = spectra.real**2 + spectra.imag**2
    # Without SILENCE, the gradient of a silent bin would be infinite.
    m = (power + SILENCE) ** (self.compression / 2)
    return _to_frames(m)


class MagnitudeSynthesis(nn.Module):
  """Audio of magnitudes.

  Attributes:
    hop: samples per frame.
    profile: the usual magnitudes.
    iterations: of `griffin_lim`.
  """

  hop: int
  profile: Profile
  iterations: int

  @nn.compact
  def __call__(
    self,
    levels: jax.Array,
    ends: jax.Array | None = None,
    phases_of: jax.Array | None = None,
  ) -> jax.Array:
    """Returns the audio of frames.

    Args:
      levels: float32 [batch, frames, 2, channels, bins], logarithms of
        magnitudes in units of the profile.
      ends: [batch] frames of each clip; None means all.
      phases_of: float32 [batch, samples, channels], audio whose phases are
        taken; None means that they are found.

    Returns:
      float32 [batch, frames * hop, channels], zero after the end of a clip.
    """
    hop, batch = self.hop, levels.shape[0]
    m = jnp.exp(jnp.minimum(levels, LOUDEST))
    # [batch, frames, 2, channels, bins] -> [batch, channels, spectra, bins]
    m = jnp.moveaxis(m, 3, 1).reshape(batch, levels.shape[3], -1, m.shape[-1])
    m = m * self.profile()[:, None]
    if ends is not None:
      heard = length_mask(griffin_lim.PER_HOP * ends, m.shape[2])
      m = jnp.where(heard[:, None, :, None], m, 0)
    if phases_of is None:
      y = griffin_lim.griffin_lim(m, hop, self.iterations, ends)
    else:
      spectra = _spectra(phases_of, hop)
      power = spectra.real**2 + spectra.imag**2
      unit = spectra * jax.lax.rsqrt(power + FAINTEST)
      # Silence has no phase. With 0, it would teach nothing.
      unit = jnp.where(power > FAINTEST, unit, griffin_lim.start(hop))
      y = griffin_lim.overlap_add(m * jax.lax.stop_gradient(unit), hop, ends)
    ends = None if ends is None else ends * hop
    return mask_after(jnp.swapaxes(matrixed(y), 1, 2), ends)


def _spectra(x: jax.Array, hop: int) -> jax.Array:
  """[batch, samples, channels] -> [batch, channels, spectra, bins]."""
  x = matrixed(jnp.swapaxes(x, 1, 2))
  x = jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % hop)))
  return griffin_lim.spectra(x, hop)


def _to_frames(m: jax.Array) -> jax.Array:
  """[batch, channels, spectra, bins] -> [batch, frames, values]."""
  batch, channels, _, bins = m.shape
  m = m.reshape(batch, channels, -1, griffin_lim.PER_HOP, bins)
  m = jnp.moveaxis(m, 1, 3)
  return m.reshape(batch, m.shape[1], -1)
