"""Between audio and what the networks of a spectral codec see of it.

`Analysis` turns audio into whitened, compressed bins of the MDCT and the MDST,
`Synthesis` whitened MDCT bins into audio. Stereo is coded as middle and side.

A frame sees half a hop of samples after it, and the last half hop of its audio
is complete only with the next frame. Pieces of a stream
(`mmdcodec.models.streaming`) are therefore half a hop longer than their frames:
`Analysis` looks at samples that come again at the start of the next piece, and
`Synthesis` begins with the half hop that the piece before could not complete.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.nn import griffin_lim, mdct
from mmdcodec.nn.conv import STREAM, length_mask, mask_after, streaming

# Arrays of the model without a gradient, beside the codebooks.
STATISTICS = "codebook"

# Log of the loudest bin that a decoder makes, in units of the profile: louder
# than clipping.
LOUDEST = 7.0

# Squared magnitude, in units of the profile, below which a bin counts as
# silent: there, compression is linear, and its gradient finite.
SILENCE = 1e-6

# For the profile: mean power of the bins of a frame below which it is silence
# (-67 dB), the power added to that of each bin, and the bins that are averaged.
AUDIBLE, FLOOR, SMOOTHING = 2e-7, 1e-8, 9


def matrixed(x: jax.Array) -> jax.Array:
  """Left and right to middle and side, or back; no change unless stereo.

  Orthonormal, so it keeps the energy and is its own inverse.

  Args:
    x: [batch, channels, ...].
  """
  if x.shape[1] != 2:
    return x
  left, right = x[:, 0], x[:, 1]
  return jnp.stack([left + right, left - right], 1) * math.sqrt(0.5)


class Profile(nn.Module):
  """The usual magnitude of each bin in the training music.

  Attributes:
    channels: number of audio channels.
    bins: bins of a spectrum.
  """

  channels: int
  bins: int

  @nn.compact
  def __call__(self) -> jax.Array:
    """Returns float32 [channels, bins], 1 until it is measured."""
    shape = self.channels, self.bins
    return self.variable(
      STATISTICS, "magnitude", jnp.ones, shape, jnp.float32
    ).value


def level_sums(
  x: jax.Array, ends: jax.Array, hop: int, *, magnitudes: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Sums of log magnitudes of a batch, for `profile_of`.

  Args:
    x: float32 [batch, samples, channels], zero after the end of a clip.
    ends: [batch] frames of each clip.
    hop: samples per frame.
    magnitudes: of the spectra of `griffin_lim`, not of MDCT and MDST.

  Returns:
    (sums of log magnitudes [channels, bins], number of spectra [channels]).
    Silent ones do not count.
  """
  x = matrixed(jnp.swapaxes(x, 1, 2))
  x = jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % hop)))
  if magnitudes:
    # As loud as the bins of an orthonormal transform.
    energy = griffin_lim.energy(hop)
    power = jnp.abs(griffin_lim.spectra(x, hop)) ** 2 / energy
    ends = griffin_lim.PER_HOP * ends
  else:
    re, im = mdct.mclt(x, hop, ends[:, None])
    power, energy = (re**2 + im**2) / 2, 1.0
  heard = length_mask(ends, power.shape[2])[:, None]
  heard &= power.mean(-1) > AUDIBLE
  levels = jnp.log(power + FLOOR) / 2 + math.log(energy) / 2
  levels = jnp.where(heard[..., None], levels, 0)
  return levels.sum((0, 2)), heard.sum((0, 2))


def profile_of(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Geometric mean of magnitudes, smoothed over neighbouring bins.

  Args:
    sums: see `level_sums`, over all batches.
    counts: likewise.

  Returns:
    float32 [channels, bins]; 1 for a channel that is silent throughout.
  """
  levels = np.asarray(sums, np.float64)
  levels = levels / np.maximum(counts, 1)[:, None]
  half = min(SMOOTHING // 2, levels.shape[1] - 1)
  levels = np.pad(levels, ((0, 0), (half, half)), mode="edge")
  windows = np.lib.stride_tricks.sliding_window_view(levels, 2 * half + 1, 1)
  return np.exp(windows.mean(-1)).astype(np.float32)


class Analysis(nn.Module):
  """MDCT and MDST of audio, whitened and compressed.

  Attributes:
    hop: samples per frame.
    profile: the usual magnitudes.
    compression: exponent of the magnitudes; phases are kept.
  """

  hop: int
  profile: Profile
  compression: float

  @nn.compact
  def __call__(self, x: jax.Array, ends: jax.Array | None = None) -> jax.Array:
    """Returns the bins of each frame.

    Args:
      x: float32 [batch, samples, channels], zero after the end of a clip. In
        streaming, [batch, frames * hop + hop / 2, channels].
      ends: [batch] frames of each clip; None means all.

    Returns:
      float32 [batch, frames, 2 * channels * hop].
    """
    hop, x = self.hop, matrixed(jnp.swapaxes(x, 1, 2))
    ends = None if ends is None else ends[:, None]
    if streaming(self):
      re, im = self._piece(x, ends)
    else:
      x = jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % hop)))
      re, im = mdct.mclt(x, hop, ends)
    scale = 1 / self.profile()[:, None]
    re, im = re * scale, im * scale
    factor = (re**2 + im**2 + SILENCE) ** ((self.compression - 1) / 2)
    # [batch, 2, channels, frames, hop] -> [batch, frames, ...]
    bins = jnp.moveaxis(jnp.stack([re * factor, im * factor], 1), 3, 1)
    return bins.reshape(*bins.shape[:2], -1)

  def _piece(
    self, x: jax.Array, ends: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    """Transforms [batch, channels, frames * hop + hop / 2] of a stream."""
    batch, channels, half = *x.shape[:2], self.hop // 2
    before = self.variable(
      STREAM, "before", jnp.zeros, (batch, channels, half), x.dtype
    )
    seen = self.variable(STREAM, "seen", jnp.zeros, (batch,), bool)
    x, after = x[..., :-half], x[..., -half:]
    found = mdct.mclt(
      x,
      self.hop,
      ends,
      before=before.value,
      after=after,
      starts=~seen.value[:, None],
    )
    before.value = x[..., -half:]
    seen.value = jnp.ones_like(seen.value)
    return found


class Synthesis(nn.Module):
  """Audio of whitened MDCT bins.

  Attributes:
    hop: samples per frame.
    profile: the usual magnitudes.
  """

  hop: int
  profile: Profile

  @nn.compact
  def __call__(
    self, bins: jax.Array, ends: jax.Array | None = None
  ) -> jax.Array:
    """Returns the audio of frames.

    Args:
      bins: float32 [batch, frames, channels, hop], zero after `ends`.
      ends: [batch] frames of each clip; None means all.

    Returns:
      float32 [batch, frames * hop, channels], zero after the end of a clip. In
      streaming, [batch, frames * hop + hop / 2, channels]: from half a hop
      before these frames; the last half hop holds only if the clip ends here.
    """
    bins = jnp.swapaxes(bins, 1, 2) * self.profile()[:, None]
    inner = None if ends is None else ends[:, None]
    if streaming(self):
      return jnp.swapaxes(matrixed(self._piece(bins, inner)), 1, 2)
    y = matrixed(mdct.imdct(bins, self.hop, inner))
    ends = None if ends is None else ends * self.hop
    return mask_after(jnp.swapaxes(y, 1, 2), ends)

  def _piece(self, bins: jax.Array, ends: jax.Array | None) -> jax.Array:
    """[batch, channels, frames, hop] -> [..., frames * hop + hop / 2]."""
    shape = *bins.shape[:2], self.hop // 2
    overlap = [
      self.variable(STREAM, name, jnp.zeros, shape, jnp.float32)
      for name in ("half", "next")
    ]
    seen = self.variable(STREAM, "seen", jnp.zeros, (len(bins),), bool)
    if ends is not None:
      # A stream that ends with its last frame here may also go on. If it ends,
      # its tail replaces what would be the overlap with the next frame.
      ends = jnp.where(ends < bins.shape[2], ends, bins.shape[2] + 1)
    y, tail, after = mdct.imdct_piece(
      bins,
      self.hop,
      ends,
      overlap=(overlap[0].value, overlap[1].value),
      starts=~seen.value[:, None],
    )
    for variable, value in zip(overlap, after, strict=True):
      variable.value = value
    seen.value = jnp.ones_like(seen.value)
    return jnp.concatenate([y, tail], -1)
