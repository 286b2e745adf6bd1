"""Intervals of a melody, which stay the same in another key.

Levels of bands that are equally far apart in pitch are compared with those some
frames later: their cross-correlation over pitch says by which intervals notes
rise and fall (Walters, Ross and Lyon 2012, "The intervalgram: an audio feature
for large-scale melody recognition"). A network that hears the bands themselves
has to learn each melody in each key.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.audio import transforms
from mmdcodec.nn.conv import frames, length_mask, mask_after

# Bands this far below the loudest one of a clip count as silent. Decibels.
_RANGE = 25.0


@functools.lru_cache(maxsize=16)
def pitch_filters(
  rate: int, window: int, bands: int, fmin: float, octave: int
) -> np.ndarray:
  """Triangular filters, equally spaced in pitch, each of which sums to 1.

  Args:
    rate: Hz.
    window: samples of the FFT.
    bands: number of filters.
    fmin: centre of the first one, Hz.
    octave: filters in an octave.

  Returns:
    float32 [window // 2 + 1, bands], read-only. A low filter that is narrower
    than the FFT's bins are far apart may hold none: a column of zeros.
  """
  hz = np.arange(1, window // 2 + 1) * rate / window
  place = octave * np.log2(hz / fmin)
  filters = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(bands)))
  filters /= np.maximum(filters.sum(0), 1e-9)
  filters = np.pad(filters, ((1, 0), (0, 0))).astype(np.float32)
  filters.flags.writeable = False
  return filters


def pitch_levels(
  x: jax.Array,
  lengths: jax.Array,
  *,
  rate: int,
  window: int,
  hop: int,
  bands: int,
  fmin: float,
  octave: int,
) -> tuple[jax.Array, jax.Array]:
  """Levels of bands that are equally spaced in pitch.

  Args:
    x: float32 [batch, samples, 1].
    lengths: int [batch], valid samples, at least 1; the rest is padding.
    rate: Hz.
    window: samples of a frame.
    hop: samples between frames.
    bands: see `pitch_filters`, also for those that follow.
    fmin: Hz.
    octave: bands in an octave.

  Returns:
    (float32 [batch, ceil(samples / hop), bands] in dB, bool [batch, frames],
    True for frames whose centre is valid).
  """
  x = mask_after(x, lengths)[..., 0]
  count = frames(x.shape[1], hop)
  spectrum = transforms.stft(x.astype(jnp.float32), window=window, hop=hop)
  filters = pitch_filters(rate, window, bands, fmin, octave)
  energy = jnp.matmul(
    transforms.power(spectrum[:, :count]), filters, precision="highest"
  )
  levels = 10 * jnp.log10(jnp.maximum(energy, 1e-10))
  return levels, length_mask(frames(lengths, hop), count)


@functools.lru_cache(maxsize=16)
def _transforms(bands: int, most: int) -> tuple[np.ndarray, np.ndarray]:
  """A DFT of the bands, and what turns a product of two into intervals.

  Returns:
    (float32 [bands, 2, bins], real and imaginary parts; float32 [2, bins,
    2 * most + 1]).
  """
  # Padded, so that the highest band is no neighbour of the lowest one.
  size = bands + most
  bins = np.arange(size // 2 + 1)
  turns = np.exp(-2j * np.pi * np.outer(np.arange(bands), bins) / size)
  # Bins that stand for two, as the signal is real.
  weight = np.where((bins == 0) | (2 * bins == size), 1.0, 2.0) / size
  back = np.exp(2j * np.pi * np.outer(bins, np.arange(-most, most + 1)) / size)
  back *= weight[:, None]
  forward = np.stack([turns.real, turns.imag], 1)
  back = np.stack([back.real, -back.imag])
  return forward.astype(np.float32), back.astype(np.float32)


def intervals(
  levels: jax.Array, valid: jax.Array, *, lags: tuple[int, ...], most: int
) -> jax.Array:
  """Correlates each frame with later ones, shifted by some bands.

  Args:
    levels: float32 [batch, frames, bands], dB.
    valid: bool [batch, frames]; others have no part in any of it.
    lags: frames from one to the other.
    most: bands up and down.

  Returns:
    float32 [batch, frames, len(lags) * (2 * most + 1)]: for each lag, how much
    of the sound of a frame is there `-most` to `most` bands higher after it.
    Loudness does not count, unless that of some parts of a clip.
  """
  here = valid[..., None]
  loudest = jnp.where(here, levels, -jnp.inf).max((1, 2), keepdims=True)
  heard = jnp.maximum(levels - (loudest - _RANGE), 0.0) / _RANGE
  heard = jnp.where(here, heard - heard.mean(-1, keepdims=True), 0.0)
  forward, back = _transforms(levels.shape[-1], most)
  product = functools.partial(jnp.einsum, precision="highest")
  real, imag = product("btp,pcf->cbtf", heard, forward)
  rows = []
  for lag in lags:
    later_real, later_imag = (
      jnp.pad(part[:, lag:], ((0, 0), (0, lag), (0, 0)))[:, : part.shape[1]]
      for part in (real, imag)
    )
    cross = jnp.stack(
      [
        real * later_real + imag * later_imag,
        real * later_imag - imag * later_real,
      ]
    )
    rows.append(product("cbtf,cfi->bti", cross, back))
  return jnp.concatenate(rows, -1)
