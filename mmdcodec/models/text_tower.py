"""A text encoder pooled to one vector, for joint embeddings of text and music.

A bidirectional Transformer over the UTF-8 bytes of a text. A text ends with a
token of its own, so that an empty one has a vector too.
"""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.bounds import number, one_of, whole
from mmdcodec.models import text_tokens
from mmdcodec.models.spectrogram_transformer import POOLINGS, pool
from mmdcodec.nn.conv import length_mask
from mmdcodec.nn.encoder import Encoder
from mmdcodec.nn.transformer import REMAT
from mmdcodec.parallel import rules

KINDS = ("bytes",)
# Bytes, the end of a text, and the first token of "class" pooling.
VOCABULARY = 258
_FIRST = 257


class TextTower(bounds.Checked, nn.Module):
  """Maps texts to vectors.

  Attributes:
    kind: kind of the encoder and of its tokens; "bytes".
    longest: maximum number of tokens; longer texts are cut.
    layers: number of blocks.
    width: channels of a token and of the output.
    heads: attention heads.
    hidden: width of the feed-forward layers.
    pooling: "class" (the output of an extra first token) or "mean".
    dropout: rate in training.
    remat: see `Transformer`.
    dtype: compute dtype; parameters, norms and sums are float32.
  """

  called = "the text tower"

  kind: Annotated[str, one_of(KINDS)] = "bytes"
  longest: Annotated[int, whole(1, 1 << 12)] = 256
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
    self, tokens: jax.Array, lengths: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Encodes texts.

    Args:
      tokens: int [batch, tokens].
      lengths: int [batch], tokens that are no padding, at least 1.
      train: applies dropout, with the random key "dropout".

    Returns:
      float32 [batch, width].
    """
    bounds.check_integers("tokens", tokens)
    bounds.check_shape("tokens", tokens, batch=..., tokens=None)
    valid = length_mask(lengths, tokens.shape[1])
    # Padding may be any number.
    tokens = jnp.where(valid, tokens, 0)
    if self.pooling == "class":
      sides = ((0, 0), (1, 0))
      tokens = jnp.pad(tokens, sides, constant_values=_FIRST)
      valid = jnp.pad(valid, sides, constant_values=True)
    x = nn.Embed(
      VOCABULARY,
      self.width,
      embedding_init=nn.initializers.normal(1.0),
      name="embedding",
    )(tokens)
    # Unlike the table, not sharded along the width; see `Transformer`.
    x = rules.constrain(x, "batch", None, None)
    x = Encoder(
      layers=self.layers,
      width=self.width,
      heads=self.heads,
      kv_heads=self.heads,
      hidden=self.hidden,
      dropout=self.dropout,
      remat=self.remat,
      dtype=self.dtype,
      name="encoder",
    )(x, valid, train=train)
    return pool(x, valid, self.pooling)


def tokenize(
  tokenizer: text_tokens.Bytes | text_tokens.Pieces,
  text: str,
  longest: int,
) -> np.ndarray:
  """Tokens of a text, cut to `longest` of them; int32 [tokens], never empty."""
  return np.array(tokenizer.encode(text)[:longest], np.int32)
