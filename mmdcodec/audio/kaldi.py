"""Log-mel features of speech models, as Kaldi's fbank computes them.

They differ from `mmdcodec.audio.transforms` in nearly everything: frames begin
at sample t * hop and lie within the signal, each loses its mean and its low
frequencies, the window is Povey's, filters are triangles over mel instead of
Hz, and samples count as 16-bit integers. Values agree with the feature
extractor of w2v-BERT 2.0 (arXiv 2312.05187) in transformers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.audio import transforms

WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 and 10 ms at 16 kHz
RATE = 16_000
_EMPHASIS = 0.97
# The resolution of float32, to which smaller energies are raised.
_FLOOR = 2.0**-23


def frame_count(samples: Any) -> Any:
  """Number of whole frames in so many samples; works for arrays too."""
  return (samples - WINDOW) // HOP + 1


def povey(window: int) -> np.ndarray:
  """Povey's window, a symmetric Hann window to the power 0.85, float64."""
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))
  return hann**0.85


@functools.lru_cache
def mel_filters(mels: int, fmin: float = 20.0) -> np.ndarray:
  """Triangular filters, equally spaced and linear over mel, of height 1.

  Args:
    mels: number of bands.
    fmin: lower edge of the first band, Hz; the last one ends at half the rate.

  Returns:
    float32 `[FFT // 2 + 1, mels]`, read-only.
  """
  mel_of = lambda hz: 1127 * np.log1p(np.asarray(hz, np.float64) / 700)
  edges = np.linspace(mel_of(fmin), mel_of(RATE / 2), mels + 2)
  bins = mel_of(np.arange(FFT // 2 + 1) * RATE / FFT)[:, None]
  rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
  fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
  filters = np.maximum(0, np.minimum(rise, fall)).astype(np.float32)
  filters.flags.writeable = False
  return filters


def fbank(x: jax.Array, mels: int) -> jax.Array:
  """Natural logarithm of the energies of mel bands.

  Args:
    x: float32 `[..., samples]` at 16 kHz in [-1, 1], at least `WINDOW` samples.
    mels: number of bands.

  Returns:
    float32 `[..., frame_count(samples), mels]`.

  Raises:
    ValueError: the signal is shorter than a window.
  """
  frames = transforms.frame(x * 2.0**15, window=WINDOW, hop=HOP)
  frames = frames - jnp.mean(frames, -1, keepdims=True)
  # The first sample takes the place of the one before it.
  before = jnp.concatenate([frames[..., :1], frames[..., :-1]], -1)
  frames = (frames - _EMPHASIS * before) * povey(WINDOW).astype(np.float32)
  energy = transforms.power(jnp.fft.rfft(frames, FFT))
  energy = jnp.matmul(energy, mel_filters(mels), precision="highest")
  return jnp.log(jnp.maximum(energy, _FLOOR))


def standardise(x: jax.Array, valid: jax.Array) -> jax.Array:
  """Makes each band of each clip of mean 0 and deviation 1.

  Args:
    x: float32 [batch, frames, mels].
    valid: bool [batch, frames].

  Returns:
    float32 [batch, frames, mels], 0 where `valid` is False.
  """
  where = valid[..., None]
  count = jnp.maximum(jnp.sum(where, 1, keepdims=True), 1)
  x = jnp.where(where, x, 0)
  x = jnp.where(where, x - jnp.sum(x, 1, keepdims=True) / count, 0)
  # Bessel's correction; a single frame has no deviation and becomes 0.
  variance = jnp.sum(x * x, 1, keepdims=True) / jnp.maximum(count - 1, 1)
  return x * jax.lax.rsqrt(variance + 1e-7)
