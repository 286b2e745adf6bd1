"""The decoder Transformer: blocks of attention and feed-forward layers.

Pre-norm, as in MusicGen (Copet et al. 2023, arXiv 2306.05284, 3.1): causal
self-attention, attention to a condition, a feed-forward layer, each on the norm
of its input and added to it. No biases outside of norms.

The parameters of all blocks are stacked on a leading axis and the blocks run in
a scan, so that the compiler sees one. Decoding token by token uses the same
block by `extend`, with a cache in the open.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.nn import positions as positions_lib
from mmdcodec.nn.attention import Attention, kernel_init
from mmdcodec.parallel import rules

ACTIVATIONS = {
  "gelu": functools.partial(nn.gelu, approximate=False),
  "relu": nn.relu,
}
REMAT = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@flax.struct.dataclass
class View:
  """Where the tokens of a call stand, and what they see.

  Attributes:
    positions: int [batch or 1, tokens].
    mask: bool [batch or 1, 1, tokens, keys], True for what is seen; None: the
      keys are the tokens, and each sees those up to itself.
    bias: float32 [batch or 1, heads, tokens, keys] of relative positions, or
      None.
  """

  positions: jax.Array
  mask: jax.Array | None = None
  bias: jax.Array | None = None


@flax.struct.dataclass
class Cross:
  """A condition, as one block attends to it.

  Attributes:
    keys: [batch, length, kv_heads, head_dim], or merged, see
      `attention.merge_heads`.
    values: as keys.
    mask: bool [batch, 1, 1, length], True for what is seen.
  """

  keys: jax.Array
  values: jax.Array
  mask: jax.Array


class Block(nn.Module):
  """One layer of the Transformer.

  Attributes:
    width: of a token's vector.
    heads: of attention.
    kv_heads: of keys and values in self-attention; divide the heads.
    hidden: width of the feed-forward layer.
    activation: in it, of ACTIVATIONS.
    rotary: positions turn queries and keys.
    qk_norm: queries and keys.
    cross: attends to a condition too.
    dropout: share of what a sublayer adds, and of the hidden units, that is
      dropped in training.
    out_scale: of the variance of fresh weights before a sum.
    dtype: of the computation; parameters, norms and sums are float32.
  """

  width: int
  heads: int
  kv_heads: int
  hidden: int
  activation: str = "gelu"
  rotary: bool = False
  qk_norm: bool = False
  cross: bool = True
  dropout: float = 0.0
  out_scale: float = 1.0
  dtype: Any = jnp.float32

  def setup(self):
    """Builds the sublayers."""

    def attention(kv_heads, rotary):
      return Attention(
        width=self.width,
        heads=self.heads,
        kv_heads=kv_heads,
        head_dim=self.width // self.heads,
        rotary=rotary,
        qk_norm=self.qk_norm,
        out_variance=self.out_scale,
        dtype=self.dtype,
      )

    def dense(features, scale=1.0):
      return nn.Dense(
        features,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=kernel_init(scale),
      )

    # In float32, whatever the rest of the computation is in.
    norm = functools.partial(nn.LayerNorm, epsilon=1e-5, dtype=jnp.float32)
    self.attention_norm = norm()
    self.attention = attention(self.kv_heads, self.rotary)
    if self.cross:
      self.cross_norm = norm()
      self.cross_attention = attention(self.heads, False)
    self.feed_norm = norm()
    self.inner = dense(self.hidden)
    self.outer = dense(self.width, self.out_scale)
    self.drop = nn.Dropout(self.dropout)

  def cross_keys(self, states: jax.Array, mask: jax.Array) -> Cross:
    """What the block needs of a condition.

    Args:
      states: [batch, length, any width].
      mask: bool [batch, length].
    """
    keys, values = self.cross_attention.keys_and_values(states)
    return Cross(keys, values, mask[:, None, None, :])

  def __call__(
    self,
    x: jax.Array,
    view: View,
    cross: Cross | None = None,
    *,
    remember: Callable | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Vectors after the block.

    Args:
      x: float32 [batch, tokens, width].
      view: where the tokens are.
      cross: the condition; None: what it would add is nothing.
      remember: (keys, values of x) -> keys and values of all that `view.mask`
        speaks of: a cache.
      train: with dropout, from the random key "dropout".

    Returns:
      float32 [batch, tokens, width].
    """
    drop = functools.partial(self.drop, deterministic=not train)
    y = self.attention_norm(x)
    keys, values = self.attention.keys_and_values(y, view.positions)
    if remember is not None:
      keys, values = remember(keys, values)
    y = self.attention(
      y,
      keys,
      values,
      positions=view.positions,
      causal=view.mask is None,
      mask=view.mask,
      bias=view.bias,
    )
    x += drop(y)
    if cross is not None:
      y = self.cross_attention(
        self.cross_norm(x), cross.keys, cross.values, mask=cross.mask
      )
      x += drop(y)
    y = ACTIVATIONS[self.activation](self.inner(self.feed_norm(x)))
    return x + drop(self.outer(drop(y)).astype(jnp.float32))


class _Scanned(Block):
  """A block as `nn.scan` wants it: the condition as it is, for all blocks."""

  def __call__(self, x, view, states, mask, train):
    cross = None if states is None else self.cross_keys(states, mask)
    return super().__call__(x, view, cross, train=train), None


class Transformer(nn.Module):
  """Blocks, the positions they need, and the last norm.

  Attributes:
    layers: blocks.
    positions: "sinusoidal", "rotary" or "relative".
    buckets: of distances, for relative positions.
    longest: distance from which on they are one, at the latest.
    remat: "none", or what the backward pass computes again: "full" keeps only
      what goes from block to block, "dots" the results of projections too.
    width: of a token's vector; it and what follows are those of `Block`.
    heads: see there.
    kv_heads: see there.
    hidden: see there.
    activation: see there.
    qk_norm: see there.
    cross: see there.
    dropout: see there; of the input too.
    dtype: see there.
  """

  layers: int
  width: int
  heads: int
  kv_heads: int
  hidden: int
  activation: str = "gelu"
  positions: str = "sinusoidal"
  buckets: int = 32
  longest: int = 128
  qk_norm: bool = False
  cross: bool = True
  dropout: float = 0.0
  remat: str = "none"
  dtype: Any = jnp.float32

  @property
  def block(self) -> dict:
    """Fields of a block."""
    return dict(
      width=self.width,
      heads=self.heads,
      kv_heads=self.kv_heads,
      hidden=self.hidden,
      activation=self.activation,
      rotary=self.positions == "rotary",
      qk_norm=self.qk_norm,
      cross=self.cross,
      dropout=self.dropout,
      # Every block adds two or three times to one sum (Radford et al. 2019).
      out_scale=1 / (2 * self.layers),
      dtype=self.dtype,
    )

  def setup(self):
    """Builds the blocks."""
    block = _Scanned
    if self.remat != "none":
      # static: train. A scan needs no guard against moving what it repeats.
      block = nn.remat(
        block,
        policy=REMAT[self.remat],
        prevent_cse=False,
        static_argnums=(5,),
      )
    self.blocks = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=nn.broadcast,
      length=self.layers,
    )(**self.block)
    self.norm = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32)
    self.drop = nn.Dropout(self.dropout)
    if self.positions == "relative":
      self.distance_bias = self.param(
        "distance_bias",
        nn.initializers.normal(self.width**-0.5),
        (self.buckets, self.heads),
      )

  def place(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Adds to vectors what tells where they stand, if that is how it is told.

    Args:
      x: [batch, tokens, width].
      positions: int [batch or 1, tokens].
    """
    x = x.astype(jnp.float32)
    if self.positions != "sinusoidal":
      return x
    return x + positions_lib.sinusoids(positions, self.width)

  def bias(self, queries: jax.Array, keys: jax.Array) -> jax.Array | None:
    """What relative positions add to the logits of attention.

    Args:
      queries: int [batch or 1, queries], positions.
      keys: int [batch or 1, keys], positions.

    Returns:
      float32 [batch or 1, heads, queries, keys], or None.
    """
    if self.positions != "relative":
      return None
    # No distance beyond `longest` has a bucket of its own.
    of_distance = positions_lib.relative_buckets(
      -np.arange(self.longest + 1),
      buckets=self.buckets,
      longest=self.longest,
      both_ways=False,
    )
    away = queries[:, :, None] - keys[:, None, :]
    bucket = jnp.asarray(of_distance)[jnp.clip(away, 0, self.longest)]
    return jnp.moveaxis(self.distance_bias[bucket], -1, 1)

  def finish(self, x: jax.Array) -> jax.Array:
    """The last norm."""
    return self.norm(x)

  def __call__(
    self,
    x: jax.Array,
    *,
    valid: jax.Array | None = None,
    states: jax.Array | None = None,
    states_mask: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Vectors after all blocks, of a whole sequence at once.

    Args:
      x: [batch, tokens, width].
      valid: bool [batch, tokens]; what is not valid is seen by none and takes
        no position. None: all is.
      states: [batch, length, any width], the condition of cross-attention.
      states_mask: bool [batch, length].
      train: with dropout, from the random key "dropout".

    Returns:
      float32 [batch, tokens, width].
    """
    count = x.shape[1]
    if valid is None:
      positions, mask = jnp.arange(count)[None], None
    else:
      positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
      mask = np.tril(np.ones((count, count), bool)) & valid[:, None, None, :]
    view = View(positions, mask, self.bias(positions, positions))
    if view.bias is not None and mask is None:
      view = view.replace(mask=np.tril(np.ones((1, 1, count, count), bool)))
    x = self.drop(self.place(x, positions), deterministic=not train)
    # Tables of tokens are cut along the width. Blocks whose input is cut so too
    # would send all activations around, and hold those of the whole batch.
    x = rules.constrain(x, "batch", None, None)
    x, _ = self.blocks(x, view, states, states_mask, train)
    return self.finish(x)


# ------------------------------------------------------------------ decoding
