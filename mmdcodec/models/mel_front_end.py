"""Spectra for a network: their levels, and a reduction in time.

w2v-BERT, arXiv 2108.06209, 3.1: two convolutions with strides of 2 over time
and bands.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec.audio import transforms
from mmdcodec.nn.attention import kernel_init
from mmdcodec.nn.conv import frames, length_mask, mask_after
from mmdcodec.nn.conv_nd import ConvNd

# Spectral frames per frame of the network.
REDUCTION = 4


def window_levels(
  x: jax.Array,
  lengths: jax.Array,
  *,
  rate: int,
  window: int,
  hop: int,
  mels: int,
  fmin: float,
  fmax: float | None,
) -> tuple[jax.Array, jax.Array]:
  """Log-mel spectrogram of windows that a clip may not fill.

  Args:
    x: float32 [batch, samples, 1].
    lengths: int [batch], valid samples, at least 1; the rest is padding.
    rate: see `transforms.log_mel`, also for those that follow.
    window: samples of a frame.
    hop: samples between frames.
    mels: bands.
    fmin: Hz.
    fmax: Hz.

  Returns:
    (float32 [batch, ceil(samples / hop), mels] in dB, bool [batch, frames],
    True for frames whose centre is valid).
  """
  x = mask_after(x, lengths)[..., 0]
  count = frames(x.shape[1], hop)
  levels = transforms.log_mel(
    x.astype(jnp.float32),
    rate=rate,
    window=window,
    hop=hop,
    mels=mels,
    fmin=fmin,
    fmax=fmax,
  )
  # Frame t is centred on sample t * hop, and the last one may be too many.
  return levels[:, :count], length_mask(frames(lengths, hop), count)


class FrontEnd(nn.Module):
  """Two convolutions of stride 2 over time and bands, and a projection.

  Attributes:
    filters: channels of the convolutions.
    width: channels of the output.
    dtype: compute dtype.
  """

  filters: int
  width: int
  dtype: Any

  @nn.compact
  def __call__(self, mel: jax.Array, ends: jax.Array) -> jax.Array:
    """Reduces a spectrum to a quarter of its frames.

    Args:
      mel: float32 [batch, frames, mels], 0 after the end of a clip; `frames` is
        a multiple of 4.
      ends: int [batch], valid spectral frames.

    Returns:
      float32 [batch, frames / 4, width].
    """
    x = mel[..., None]
    for name in ("reduce_1", "reduce_2"):
      ends = frames(ends, 2)
      conv = ConvNd(
        self.filters,
        (3, 3),
        strides=(2, 2),
        pads=((1, 1), (1, 1)),
        norm="none",
        dtype=self.dtype,
        name=name,
      )
      x = nn.swish(conv(x))
      # The next convolution must find zeros after the end, as after a clip that
      # is not padded.
      x = jnp.where(length_mask(ends, x.shape[1])[..., None, None], x, 0)
    x = x.reshape(*x.shape[:2], -1)
    x = nn.Dense(
      self.width, dtype=self.dtype, kernel_init=kernel_init(), name="project"
    )(x)
    return nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="norm")(x)
