"""Which frames of a clip are hidden from a network that has to predict them.

w2v-BERT (arXiv 2108.06209, from wav2vec 2.0, arXiv 2006.11477, 3.1) hides spans
that begin anywhere and may overlap. MusicFM (its BEST-RQ recipe for music)
hides blocks of a fixed grid.
"""

import jax
import jax.numpy as jnp

from mmdcodec.nn.conv import frames


def spans(
  key: jax.Array, valid: jax.Array, share: float, length: int
) -> jax.Array:
  """Hides spans that begin at random frames.

  Args:
    key: random key.
    valid: bool [batch, frames].
    share: probability that a span begins at a frame. Overlaps count once, so
      1 - (1 - share)^length of the frames are hidden.
    length: frames of a span.

  Returns:
    bool [batch, frames], False where not valid.
  """
  begins = jax.random.uniform(key, valid.shape, jnp.float32) < share
  count = jnp.cumsum(begins, axis=1)
  before = jnp.pad(count, ((0, 0), (length, 0)))[:, : valid.shape[1]]
  return (count > before) & valid


def blocks(
  key: jax.Array, valid: jax.Array, share: float, length: int
) -> jax.Array:
  """Hides blocks of a grid that begins with the clip.

  Args:
    key: random key.
    valid: bool [batch, frames].
    share: probability that a block is hidden.
    length: frames of a block.

  Returns:
    bool [batch, frames], False where not valid.
  """
  batch, count = valid.shape
  drawn = jax.random.uniform(key, (batch, frames(count, length)), jnp.float32)
  return jnp.repeat(drawn < share, length, axis=1)[:, :count] & valid


MASKS = {"spans": spans, "blocks": blocks}


def hide(
  x: jax.Array, masked: jax.Array, stride: int, noise: jax.Array
) -> jax.Array:
  """Replaces audio by noise wherever a frame is masked.

  Done before any spectrum or convolution, so that no neighbour of a masked
  frame hears what is under the mask.

  Args:
    x: [batch, samples, channels].
    masked: bool [batch, frames].
    stride: samples per frame; frame t begins at sample t * stride.
    noise: same shape as x.
  """
  under = jnp.repeat(masked, stride, axis=1)[:, : x.shape[1], None]
  return jnp.where(under, noise, x)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of values [batch, frames] where the mask is True; 0 if nowhere."""
  total = jnp.sum(jnp.where(mask, values.astype(jnp.float32), 0.0))
  return total / jnp.maximum(jnp.sum(mask), 1)
