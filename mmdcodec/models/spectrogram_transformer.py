"""A Transformer over patches of a spectrogram, pooled to one vector.

AST (Gong et al. 2021, arXiv 2104.01778), with patches that do not overlap. Each
patch gets a learned vector for its time and one for its bands (as in PaSST,
Koutini et al. 2022, arXiv 2110.05069), so every spectrogram must have the same
size; a mask leaves out the frames that a shorter clip does not have.
"""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import list_of, number, one_of, whole
from mmdcodec.nn.attention import kernel_init
from mmdcodec.nn.encoder import Encoder
from mmdcodec.nn.stacked import REMAT
from mmdcodec.parallel import rules

POOLINGS = ("class", "mean")


def pool(x: jax.Array, valid: jax.Array, pooling: str) -> jax.Array:
  """One vector per item: that of its first token, or the mean of its tokens.

  Args:
    x: [batch, tokens, width].
    valid: bool [batch, tokens]; True for at least one token of an item.
    pooling: one of POOLINGS.

  Returns:
    float32 [batch, width].
  """
  if pooling == "class":
    return x[:, 0].astype(jnp.float32)
  weights = valid[..., None].astype(jnp.float32)
  return jnp.sum(x * weights, 1) / jnp.maximum(jnp.sum(weights, 1), 1.0)


class SpectrogramTransformer(bounds.Checked, nn.Module):
  """Maps spectrograms to vectors.

  Attributes:
    patch: frames and bands of a patch.
    layers: number of blocks.
    width: channels of a token and of the output.
    heads: attention heads.
    hidden: width of the feed-forward layers.
    pooling: "class" (the output of an extra first token) or "mean".
    dropout: rate in training.
    remat: see `Transformer`.
    dtype: compute dtype; parameters, norms and sums are float32.
  """

  called = "the audio tower"

  patch: Annotated[Any, list_of(whole(1, 1 << 10), 2, 2)] = (16, 16)
  layers: Annotated[int, whole(1, 256)] = 12
  width: Annotated[int, whole(4, 1 << 14)] = 768
  heads: Annotated[int, whole(1, 256)] = 12
  hidden: Annotated[int, whole(1, 1 << 17)] = 3072
  pooling: Annotated[str, one_of(POOLINGS)] = "class"
  dropout: Annotated[float, number(0, 1)] = 0.0
  remat: Annotated[str, one_of(("none", *REMAT))] = "none"
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, valid: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Encodes spectrograms.

    Args:
      x: float32 [batch, frames, bands]; always as many frames.
      valid: bool [batch, frames], True for at least one frame of an item.
      train: applies dropout, with the random key "dropout".

    Returns:
      float32 [batch, width].

    Raises:
      ValueError: the bands are no multiple of those of a patch.
    """
    batch, frames, bands = x.shape
    long, high = self.patch
    if bands % high:
      raise ValueError(
        f"a spectrogram has {bands} bands; expected a multiple of {high}, those"
        " of a patch"
      )
    x = jnp.where(valid[..., None], x, 0.0)
    more = -frames % long
    x = jnp.pad(x, ((0, 0), (0, more), (0, 0)))
    valid = jnp.pad(valid, ((0, 0), (0, more)))
    times, heights = x.shape[1] // long, bands // high
    x = x.reshape(batch, times, long, heights, high).swapaxes(2, 3)
    x = x.reshape(batch, times, heights, long * high)
    x = nn.Dense(
      self.width, dtype=self.dtype, kernel_init=kernel_init(), name="patches"
    )(x).astype(jnp.float32)
    small = nn.initializers.normal(0.02)
    x += self.param("times", small, (times, 1, self.width), jnp.float32)
    x += self.param("bands", small, (heights, self.width), jnp.float32)
    x = x.reshape(batch, times * heights, self.width)
    # A patch counts if any frame of it does.
    valid = jnp.repeat(valid.reshape(batch, times, long).any(-1), heights, 1)
    if self.pooling == "class":
      first = self.param("class", small, (self.width,), jnp.float32)
      first = jnp.broadcast_to(first, (batch, 1, self.width))
      x = jnp.concatenate([first, x], 1)
      valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
    x = rules.constrain(x, "batch", None, None)
    x = Encoder(
      layers=self.layers,
      width=self.width,
      heads=self.heads,
      kv_heads=self.heads,
      hidden=self.hidden,
      positions="none",
      dropout=self.dropout,
      remat=self.remat,
      dtype=self.dtype,
      name="encoder",
    )(x, valid, train=train)
    return pool(x, valid, self.pooling)
