"""The encoder of BERT: turns a text into one vector per token.

Devlin et al. 2019, arXiv 1810.04805, section 3: learned positions, and norms
after the sums of a block instead of before its layers. MiniLM and many other
public sentence encoders have this form, and so has RoBERTa (Liu et al. 2019,
arXiv 1907.11692), whose positions begin at 2.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.bounds import number, whole
from mmdcodec.models import fields
from mmdcodec.nn import stacked
from mmdcodec.nn.attention import Attention, kernel_init
from mmdcodec.parallel import rules


def mean_of_tokens(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Averages the vectors of a text's tokens.

  Args:
    x: float32 [batch, tokens, width].
    mask: [batch, tokens], False or 0 for padding.

  Returns:
    float32 [batch, width]; 0 for a text without tokens.
  """
  weights = mask.astype(jnp.float32)[..., None]
  return jnp.sum(x * weights, 1) / jnp.maximum(jnp.sum(weights, 1), 1)


class BertBlock(nn.Module):
  """Self-attention and feed-forward layers, each with a norm.

  Attributes:
    heads: attention heads.
    hidden: width of the feed-forward layer.
    epsilon: added to the variance in norms.
    dtype: compute dtype.
    norm_first: normalises what a layer hears instead of its sum with that.
  """

  heads: int
  hidden: int
  epsilon: float
  dtype: Any
  norm_first: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
    """Applies the block, with the signature of `nn.scan`.

    Args:
      x: float32 [batch, tokens, width].
      mask: bool [batch, 1, 1, tokens], True for tokens to attend to.

    Returns:
      (float32 [batch, tokens, width], None).
    """
    width = x.shape[-1]
    norm = lambda name: nn.LayerNorm(
      epsilon=self.epsilon, dtype=jnp.float32, name=name
    )
    dense = lambda size, name: nn.Dense(
      size, dtype=self.dtype, kernel_init=kernel_init(), name=name
    )
    attention = Attention(
      width=width,
      heads=self.heads,
      kv_heads=self.heads,
      head_dim=width // self.heads,
      use_bias=True,
      dtype=self.dtype,
    )
    # Stores its parameters beside those of the other layers, as in bundles.
    nn.share_scope(self, attention)

    def attend(x: jax.Array) -> jax.Array:
      return attention(x, *attention.keys_and_values(x), mask=mask)

    def feed(x: jax.Array) -> jax.Array:
      inner = nn.gelu(dense(self.hidden, "inner")(x), approximate=False)
      return dense(width, "outer")(inner)

    for name, layer in (("attention_norm", attend), ("feed_norm", feed)):
      if self.norm_first:
        x = x + layer(norm(name)(x))
      else:
        x = norm(name)(x + layer(x))
    return x, None


class Bert(bounds.Checked, nn.Module):
  """Maps tokens to vectors, without dropout.

  Attributes:
    vocabulary: number of tokens.
    width: channels of a vector.
    layers: number of blocks.
    heads: attention heads; they share the width.
    hidden: width of the feed-forward layers.
    positions: size of the table of positions.
    first_position: position of the first token; RoBERTa's is 2.
    types: size of the table of token types. All tokens are of type 0; public
      weights have another for the second of two texts.
    epsilon: added to the variance in norms.
    dtype: compute dtype; parameters, norms and sums are float32.
  """

  called = "the BERT encoder"

  vocabulary: Annotated[int, whole(1, 1 << 20)] = 30_522
  width: Annotated[int, whole(1, 1 << 14)] = 384
  layers: Annotated[int, whole(1, 256)] = 6
  heads: Annotated[int, whole(1, 256)] = 12
  hidden: Annotated[int, whole(1, 1 << 17)] = 1536
  positions: Annotated[int, whole(1, 1 << 16)] = 512
  first_position: Annotated[int, whole(0, 16)] = 0
  types: Annotated[int, whole(1, 16)] = 2
  epsilon: Annotated[float, number(1e-12, 1e-1)] = 1e-12
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if self.width % self.heads:
      return f"its {self.heads} heads can't share a width of {self.width}"
    if self.longest < 1:
      return f"a table of {self.positions} positions has no room for a token"
    return None

  @property
  def longest(self) -> int:
    """Number of tokens of the longest text."""
    return self.positions - self.first_position

  @nn.compact
  def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Encodes texts; the vectors of a text do not depend on its padding.

    Args:
      tokens: int [batch, tokens], padding last.
      mask: [batch, tokens], False or 0 for padding. A text may be empty.

    Returns:
      float32 [batch, tokens, width], 0 for padding.

    Raises:
      ValueError: tokens or mask have another shape, tokens are no integers, or
        there are more than `longest`.
    """
    bounds.check_integers("tokens", tokens)
    bounds.check_shape("tokens", tokens, batch=..., tokens=...)
    batch, length = tokens.shape
    bounds.check_shape("mask", mask, batch=batch, tokens=length)
    if length > self.longest:
      raise ValueError(f"{length} tokens; expected at most {self.longest}")
    embed = lambda size, name: nn.Embed(
      size,
      self.width,
      embedding_init=nn.initializers.normal(0.02),
      name=name,
    )
    mask = mask.astype(bool)
    # Padding may be any number, even one outside the vocabulary.
    x = embed(self.vocabulary, "embedding")(jnp.where(mask, tokens, 0))
    # Unlike the table, not sharded along the width; see `Transformer`.
    x = rules.constrain(x, "batch", None, None)
    x += embed(self.types, "type_embedding")(jnp.zeros((1, 1), jnp.int32))
    at = self.first_position + np.arange(length)
    x += embed(self.positions, "position_embedding")(at)
    x = nn.LayerNorm(
      epsilon=self.epsilon, dtype=jnp.float32, name="embedding_norm"
    )(x)
    x, _ = stacked.scan(BertBlock, self.layers)(
      heads=self.heads,
      hidden=self.hidden,
      epsilon=self.epsilon,
      dtype=self.dtype,
      name="blocks",
    )(x, mask[:, None, None, :])
    return jnp.where(mask[..., None], x, 0)


def from_config(config: Mapping[str, Any]) -> Bert:
  """Builds an encoder from a mapping of its fields.

  Args:
    config: fields of `Bert`; missing ones keep their defaults, MiniLM's.

  Raises:
    UserError: an unknown field, or a value out of its bounds.
  """
  return fields.build(Bert, config)


def shapes(config: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes of the variables of a bundle of kind "text".

  Raises:
    UserError: as in `from_config`.
  """
  model = from_config(config["model"])
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  return dict(jax.eval_shape(model.init, jax.random.key(0), tokens, tokens))
