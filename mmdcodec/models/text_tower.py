"""A text encoder pooled to one vector, for joint embeddings of text and music.

Either a bidirectional Transformer over the UTF-8 bytes of a text, or BERT over
its word pieces, which can begin with public weights. A text ends with a token
of its own, so that an empty one has a vector too.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import mapping, number, one_of, whole
from mmdcodec.models import fields
from mmdcodec.models.bert import Bert
from mmdcodec.models.spectrogram_transformer import POOLINGS, pool
from mmdcodec.nn.conv import length_mask
from mmdcodec.nn.encoder import Encoder
from mmdcodec.nn.stacked import REMAT
from mmdcodec.parallel import rules

# Kinds of encoders, and the tokenizer of each (see `text_tokens`).
TOKENIZERS = {"bytes": "bytes", "bert": "word_pieces"}
# Bytes, the end of a text, and the first token of "class" pooling.
VOCABULARY = 258
_FIRST = 257


class TextTower(bounds.Checked, nn.Module):
  """Maps texts to vectors.

  Attributes:
    kind: "bytes" or "bert".
    longest: maximum number of tokens; longer texts are cut.
    bert: fields of `Bert`, if kind is "bert"; the defaults are MiniLM's. The
      fields from `layers` to `hidden`, `dropout` and `remat` belong to the
      encoder of bytes.
    layers: number of blocks.
    width: channels of a token and of the output.
    heads: attention heads.
    hidden: width of the feed-forward layers.
    pooling: "class" (the output of a first token before the text) or "mean".
    dropout: rate in training.
    remat: see `Transformer`.
    dtype: compute dtype; parameters, norms and sums are float32.
  """

  called = "the text tower"

  kind: Annotated[str, one_of(tuple(TOKENIZERS))] = "bytes"
  longest: Annotated[int, whole(1, 1 << 12)] = 256
  bert: Annotated[Any, mapping()] = fields.freeze({})
  layers: Annotated[int, whole(1, 256)] = 12
  width: Annotated[int, whole(4, 1 << 14)] = 768
  heads: Annotated[int, whole(1, 256)] = 12
  hidden: Annotated[int, whole(1, 1 << 17)] = 3072
  pooling: Annotated[str, one_of(POOLINGS)] = "class"
  dropout: Annotated[float, number(0, 1)] = 0.0
  remat: Annotated[str, one_of(("none", *REMAT))] = "none"
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if self.kind != "bert":
      return None
    fields.check_known(self.bert, Bert, hidden=("dtype",))
    most = Bert(**self.bert, parent=None).longest
    if self.longest > most:
      return f"longest is {self.longest}, but its BERT takes {most} tokens"
    return None

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
    if self.kind == "bert":
      # Its texts begin with a token for "class" pooling.
      x = Bert(**self.bert, dtype=self.dtype, name="bert")(tokens, valid)
      return pool(x, valid, self.pooling)
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


def fields_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """All fields of a tower but `remat` and `dtype`, and its "tokenizer"."""
  found = fields.defaults(TextTower, hidden=("remat", "dtype")) | dict(config)
  return {**found, "tokenizer": TOKENIZERS[found["kind"]]}
