"""The encoder of T5: turns a text into one vector per token.

Raffel et al. 2020, arXiv 1910.10683, section 2.1; for the gated form of T5 1.1
and FLAN-T5, see Shazeer 2020, arXiv 2002.05202. MusicGen attends to its output.
"""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.bounds import flag, whole
from mmdcodec.nn import stacked
from mmdcodec.nn.attention import Attention, kernel_init
from mmdcodec.nn.positions import relative_buckets
from mmdcodec.parallel import rules


def _dense(features: int, dtype: Any, name: str) -> nn.Dense:
  return nn.Dense(
    features,
    use_bias=False,
    dtype=dtype,
    kernel_init=kernel_init(),
    name=name,
  )


def _norm(name: str) -> nn.RMSNorm:
  # Norms stay in float32, whatever the dtype of the computation.
  return nn.RMSNorm(epsilon=1e-6, dtype=jnp.float32, name=name)


class TextBlock(nn.Module):
  """Self-attention and feed-forward layers, each on the norm of its input.

  Attributes:
    heads: attention heads.
    head_dim: channels per head.
    hidden: width of the feed-forward layer.
    gated: multiplies two inner layers, one of them through GELU (T5 1.1);
      otherwise there is one, with ReLU.
    dtype: compute dtype.
  """

  heads: int
  head_dim: int
  hidden: int
  gated: bool
  dtype: Any

  @nn.compact
  def __call__(
    self, x: jax.Array, bias: jax.Array, mask: jax.Array
  ) -> tuple[jax.Array, None]:
    """Applies the block, with the signature of `nn.scan`.

    Args:
      x: float32 [batch, tokens, width].
      bias: float32 [1, heads, queries, keys], added to attention's logits.
      mask: bool [batch, 1, 1, keys], True for keys that may be attended to.

    Returns:
      (float32 [batch, tokens, width], None).
    """
    width = x.shape[-1]
    attention = Attention(
      width=width,
      heads=self.heads,
      kv_heads=self.heads,
      head_dim=self.head_dim,
      scale=1.0,
      dtype=self.dtype,
    )
    # Stores its parameters beside those of the other layers, as in bundles.
    nn.share_scope(self, attention)
    y = _norm("attention_norm")(x)
    x += attention(y, *attention.keys_and_values(y), mask=mask, bias=bias)
    y = _norm("feed_norm")(x)
    inner = _dense(self.hidden, self.dtype, "inner")(y)
    if self.gated:
      gate = _dense(self.hidden, self.dtype, "gate")(y)
      inner = nn.gelu(gate, approximate=True) * inner
    else:
      inner = nn.relu(inner)
    y = _dense(width, self.dtype, "outer")(inner)
    return x + y, None


class T5Encoder(bounds.Checked, nn.Module):
  """Maps tokens to vectors, without dropout.

  Attributes:
    vocabulary: number of tokens; published models use 32,100 of them.
    width: channels of a vector.
    layers: number of blocks.
    heads: attention heads.
    head_dim: channels per head.
    hidden: width of the feed-forward layers.
    gated: multiplies two inner layers, see `TextBlock`.
    buckets: number of distances that attention tells apart.
    longest: attention treats all longer distances alike.
    dtype: compute dtype; parameters and the sums of layers are float32.
  """

  called = "the text encoder"

  vocabulary: Annotated[int, whole(1, 1 << 20)] = 32_128
  width: Annotated[int, whole(1, 1 << 14)] = 768
  layers: Annotated[int, whole(1, 256)] = 12
  heads: Annotated[int, whole(1, 256)] = 12
  head_dim: Annotated[int, whole(1, 1 << 10)] = 64
  hidden: Annotated[int, whole(1, 1 << 17)] = 3072
  gated: Annotated[bool, flag()] = False
  buckets: Annotated[int, whole(4, 1 << 10)] = 32
  longest: Annotated[int, whole(2, 1 << 20)] = 128
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if self.buckets % 2:
      return f"its {self.buckets} buckets must be an even number"
    if self.longest <= self.buckets // 4:
      return f"longest is {self.longest}; it must exceed a quarter of buckets"
    return None

  @nn.compact
  def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Encodes texts; the vectors of a text do not depend on its padding.

    Args:
      tokens: int [batch, tokens].
      mask: [batch, tokens], False or 0 for padding. A text may be empty.

    Returns:
      float32 [batch, tokens, width], 0 for padding.

    Raises:
      ValueError: tokens or mask have another shape, or tokens no integers.
    """
    bounds.check_integers("tokens", tokens)
    bounds.check_shape("tokens", tokens, batch=..., tokens=...)
    batch, length = tokens.shape
    bounds.check_shape("mask", mask, batch=batch, tokens=length)
    embed = nn.Embed(
      self.vocabulary,
      self.width,
      embedding_init=nn.initializers.normal(1.0),
      name="embedding",
    )
    mask = mask.astype(bool)
    # Padding may be any number, even one outside the vocabulary.
    x = embed(jnp.where(mask, tokens, 0))
    # The blocks add to it in float32, whatever the weights are stored as.
    x = x.astype(jnp.float32)
    # Unlike the table, not sharded along the width; see `Transformer`.
    x = rules.constrain(x, "batch", None, None)
    table = self.param(
      "distance_bias",
      nn.initializers.normal(self.width**-0.5),
      (self.buckets, self.heads),
      jnp.float32,
    )
    count = tokens.shape[1]
    at = relative_buckets(
      np.arange(count) - np.arange(count)[:, None],
      buckets=self.buckets,
      max_distance=self.longest,
      bidirectional=True,
    )
    # [1, heads, queries, keys], the same in all blocks.
    bias = jnp.moveaxis(table[at], -1, 0)[None]
    seen = mask[:, None, None, :]
    x, _ = stacked.scan(TextBlock, self.layers)(
      heads=self.heads,
      head_dim=self.head_dim,
      hidden=self.hidden,
      gated=self.gated,
      dtype=self.dtype,
      name="blocks",
    )(x, bias, seen)
    return jnp.where(mask[..., None], _norm("norm")(x), 0)
