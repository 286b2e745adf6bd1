"""The decoder Transformer: blocks between positions and a final norm.

The blocks are `stacked`. `mmdcodec.nn.cache` decodes token by token with the
same `Block`.
"""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.bounds import flag, number, one_of, whole
from mmdcodec.nn import forgetting, sliding, stacked
from mmdcodec.nn import positions as positions_lib
from mmdcodec.nn.block import ACTIVATIONS, NORMS, Block, View
from mmdcodec.nn.stacked import REMAT
from mmdcodec.parallel import rules


class _Scanned(Block):
  """A block with the signature of `nn.scan`.

  All blocks get the same condition, and each block projects it.
  """

  def __call__(  # type: ignore[override]
    self,
    x: jax.Array,
    view: View,
    states: jax.Array | None,
    mask: jax.Array | None,
    train: bool,
  ) -> tuple[jax.Array, None]:
    cross = None
    if states is not None and mask is not None:
      cross = self.cross_keys(states, mask)
    return super().__call__(x, view, cross, train=train), None


class Transformer(bounds.Checked, nn.Module):
  """Blocks between positions and a final norm.

  Attributes:
    layers: number of blocks.
    width: channels of a token's vector.
    heads: query heads of attention.
    kv_heads: key and value heads of self-attention; must divide `heads`.
    hidden: width of the feed-forward layers.
    activation: activation of the feed-forward layers, a key of ACTIVATIONS.
    norms: kind of the norms, a key of NORMS.
    positions: "sinusoidal", "rotary", "relative" or "none".
    buckets: number of distances that relative positions tell apart.
    max_distance: relative positions treat all longer distances alike.
    window: tokens that a token attends to, itself included, besides the prefix
      of its sequence, which stays visible; 0 means all before it.
    sinks: learned keys and values per head, which every token attends to.
    qk_norm: normalises queries and keys, see `Attention`.
    cross: adds cross-attention to a condition.
    dropout: rate in training, also on the input; see `Block`.
    forget: share of the tokens that training hides from all others, see
      `forgetting`.
    remat: what the backward pass recomputes. "none": nothing. "full":
      everything but the input of each block. "dots": everything but the
      results of projections.
    dtype: compute dtype; parameters, norms and sums are float32.
  """

  called = "the Transformer"

  layers: Annotated[int, whole(1, 256)]
  width: Annotated[int, whole(4, 1 << 14)]
  heads: Annotated[int, whole(1, 256)]
  kv_heads: Annotated[int, whole(1, 256)]
  hidden: Annotated[int, whole(1, 1 << 17)]
  activation: Annotated[str, one_of(tuple(ACTIVATIONS))] = "gelu"
  norms: Annotated[str, one_of(tuple(NORMS))] = "layer"
  positions: Annotated[str, one_of(positions_lib.KINDS)] = "sinusoidal"
  buckets: Annotated[int, whole(2, 1 << 10)] = 32
  max_distance: Annotated[int, whole(2, 1 << 20)] = 128
  window: Annotated[int, whole(0, 1 << 20)] = 0
  sinks: Annotated[int, whole(0, 1 << 10)] = 0
  qk_norm: Annotated[bool, flag()] = False
  cross: Annotated[bool, flag()] = True
  dropout: Annotated[float, number(0, 1)] = 0.0
  forget: Annotated[float, bounds.fraction()] = 0.0
  remat: Annotated[str, one_of(("none", *REMAT))] = "none"
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def problem(self) -> str | None:
    """See the base class."""
    for what, size, parts in (
      ("width", self.width, 4),
      ("width", self.width, 2 * self.heads),
      ("heads", self.heads, self.kv_heads),
    ):
      if size % parts:
        return f"its {what} is {size}; it must be a multiple of {parts}"
    if self.positions == "relative" and self.max_distance <= self.buckets // 2:
      return (
        f"its max_distance is {self.max_distance}; it must exceed half of its"
        f" {self.buckets} buckets"
      )
    if self.window and self.positions == "sinusoidal":
      return (
        "its window is for music of any length, but sinusoidal positions are"
        ' learned up to the length of training: use positions "none", "rotary"'
        ' or "relative"'
      )
    return None

  @property
  def block(self) -> dict[str, Any]:
    """Fields of a `Block`."""
    return dict(
      width=self.width,
      heads=self.heads,
      kv_heads=self.kv_heads,
      hidden=self.hidden,
      activation=self.activation,
      norms=self.norms,
      rotary=self.positions == "rotary",
      qk_norm=self.qk_norm,
      sinks=self.sinks,
      cross=self.cross,
      dropout=self.dropout,
      # Every block adds to the residual sum two or three times, so initial
      # weights shrink with the depth (Radford et al. 2019).
      out_scale=1 / (2 * self.layers),
      dtype=self.dtype,
    )

  def setup(self) -> None:
    """Builds the blocks."""
    # Argument 5 is `train`.
    blocks = stacked.scan(_Scanned, self.layers, remat=self.remat, static=5)
    self.blocks = blocks(**self.block)
    self.norm = NORMS[self.norms](epsilon=1e-5, dtype=jnp.float32)
    self.drop = nn.Dropout(self.dropout)
    if self.positions == "relative":
      self.distance_bias = self.param(
        "distance_bias",
        nn.initializers.normal(self.width**-0.5),
        (self.buckets, self.heads),
        jnp.float32,
      )

  def place(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Adds sinusoids to the input, if positions are sinusoidal.

    Args:
      x: [batch, tokens, width].
      positions: int [batch or 1, tokens].

    Returns:
      float32 [batch, tokens, width].
    """
    x = x.astype(jnp.float32)
    if self.positions != "sinusoidal":
      return x
    return x + positions_lib.sinusoids(positions, self.width)

  def bias(self, queries: jax.Array, keys: jax.Array) -> jax.Array | None:
    """Bias of the attention logits by relative positions (T5).

    Args:
      queries: int [batch or 1, queries], positions of queries.
      keys: int [batch or 1, keys], positions of keys.

    Returns:
      float32 [batch or 1, heads, queries, keys]; None if positions are not
      relative.
    """
    if self.positions != "relative":
      return None
    # All distances beyond `max_distance` share a bucket.
    buckets = positions_lib.relative_buckets(
      -np.arange(self.max_distance + 1),
      buckets=self.buckets,
      max_distance=self.max_distance,
      bidirectional=False,
    )
    distance = queries[:, :, None] - keys[:, None, :]
    return positions_lib.look_up(self.distance_bias, buckets, distance)

  def _view(self, count: int, valid: jax.Array | None, before: int) -> View:
    """What the tokens of whole sequences see; see `__call__`."""
    positions = jnp.arange(count)[None]
    if valid is not None:
      positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
    bias = self.bias(positions, positions)
    window = self.window if self.window < count - before else 0
    if bias is None:
      if sliding.pays(window, count - before):
        valid = jnp.ones((1, count), bool) if valid is None else valid
        band = sliding.Band(valid, window, before, self.sinks)
        return View(positions, band=band)
      if valid is None and not window and not self.sinks:
        return View(positions)
    else:
      bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (self.sinks, 0)))
    mask: Any = sliding.mask(
      count, window=window, before=before, sinks=self.sinks
    )
    if valid is not None:
      valid = jnp.pad(valid, ((0, 0), (self.sinks, 0)), constant_values=True)
      mask = mask & valid[:, None, None, :]
    return View(positions, mask, bias)

  def finish(self, x: jax.Array) -> jax.Array:
    """Applies the final norm."""
    return self.norm(x)

  def __call__(
    self,
    x: jax.Array,
    *,
    valid: jax.Array | None = None,
    states: jax.Array | None = None,
    states_mask: jax.Array | None = None,
    before: int = 0,
    train: bool = False,
  ) -> jax.Array:
    """Runs all blocks over whole sequences.

    Args:
      x: [batch, tokens, width].
      valid: bool [batch, tokens]; other tokens are ignored and take no
        position. None means that all are valid.
      states: [batch, length, any width], the condition of cross-attention.
      states_mask: bool [batch, length].
      before: first tokens, which the window does not hide.
      train: applies dropout and forgets, with the random key "dropout".

    Returns:
      float32 [batch, tokens, width].
    """
    view = self._view(x.shape[1], valid, before)
    positions = view.positions
    if train and self.forget:
      there = jnp.ones(x.shape[:2], bool) if valid is None else valid
      seen = forgetting.kept(self.make_rng("dropout"), there, self.forget)
      view = forgetting.forget(view, seen, self.sinks)
    x = self.drop(self.place(x, positions), deterministic=not train)
    # Embedding tables are sharded along the width. If their output were
    # too, every block would gather the activations of the whole batch.
    x = rules.constrain(x, "batch", None, None)
    x, _ = self.blocks(x, view, states, states_mask, train)
    return self.finish(x)
