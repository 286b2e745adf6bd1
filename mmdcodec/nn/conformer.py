"""The conformer: blocks of attention and convolution over frames.

Gulati et al. 2020, arXiv 2005.08100, 2: half of a feed-forward layer,
self-attention, a convolution module and the other half of a feed-forward layer,
each applied to the norm of its input and added to it; then a norm. All frames
of a clip attend to all others, or to those of two chunks
(`conformer_attention.py`). Padding changes no valid frame. The blocks are
`stacked`.
"""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import flag, number, one_of, whole
from mmdcodec.nn import stacked
from mmdcodec.nn.attention import kernel_init
from mmdcodec.nn.conformer_attention import OUT_VARIANCE, SelfAttention
from mmdcodec.nn.convnext import DepthwiseConv
from mmdcodec.nn.norms import layer_norm
from mmdcodec.nn.stacked import REMAT
from mmdcodec.parallel import mapped, rules

POSITIONS = ("none", "rotary", "rotary_input", "relative_key")
NORMS = ("layer", "batch")


class FeedForward(nn.Module):
  """A feed-forward layer on the norm of its input.

  Attributes:
    hidden: width between its two dense layers.
    dropout: rate in training, on the hidden units.
    dtype: compute dtype.
  """

  hidden: int
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """float32 [batch, frames, width] -> the same."""
    dense = functools.partial(
      nn.Dense, dtype=self.dtype, kernel_init=kernel_init()
    )
    y = nn.swish(dense(self.hidden, name="inner")(layer_norm(name="norm")(x)))
    y = nn.Dropout(self.dropout)(y, deterministic=not train)
    outer = dense(
      x.shape[-1], kernel_init=kernel_init(OUT_VARIANCE), name="outer"
    )
    return outer(y).astype(jnp.float32)


class Convolution(nn.Module):
  """The convolution module, on the norm of its input.

  Attributes:
    kernel: taps of the depthwise convolution.
    norm: one of NORMS, after the depthwise convolution.
    causal: pads on the left only.
    dtype: compute dtype.
  """

  kernel: int
  norm: str
  causal: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
    """float32 [batch, frames, width], bool [batch, frames] -> as x."""
    width = x.shape[-1]
    dense = functools.partial(
      nn.Dense, use_bias=False, dtype=self.dtype, kernel_init=kernel_init()
    )
    seen = mask[..., None]
    y = nn.glu(dense(2 * width, name="expand")(layer_norm(name="norm")(x)))
    # Padding is zero for the taps that reach it.
    y = jnp.where(seen, y, 0)
    y = DepthwiseConv(self.kernel, self.causal, self.dtype, name="depthwise")(y)
    if self.norm == "layer":
      y = layer_norm(name="middle_norm")(y)
    else:
      if train:
        mapped.check_global("batch normalization")
      y = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=jnp.float32,
        use_fast_variance=False,
        name="middle_norm",
      )(y, mask=seen)
    project = dense(
      width, kernel_init=kernel_init(OUT_VARIANCE), name="project"
    )
    return project(nn.swish(y)).astype(jnp.float32)


class ConformerBlock(nn.Module):
  """One block. For its attributes see `Conformer`, which checks them."""

  width: int
  heads: int
  hidden: int
  kernel: int = 31
  positions: str = "relative_key"
  conv_norm: str = "layer"
  causal_conv: bool = False
  dropout: float = 0.0
  dtype: Any = jnp.float32
  left: int = 64
  right: int = 8
  chunk: int = 0

  @nn.compact
  def __call__(
    self, x: jax.Array, mask: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Applies the block.

    Args:
      x: float32 [batch, frames, width]; finite, also where the mask is False.
      mask: bool [batch, frames], True for valid frames.
      train: applies dropout, with the random key "dropout", and normalises by
        the statistics of the batch if `conv_norm` is "batch".

    Returns:
      float32 [batch, frames, width].
    """

    def drop(y: jax.Array) -> jax.Array:
      return nn.Dropout(self.dropout)(y, deterministic=not train)

    feed = functools.partial(FeedForward, self.hidden, self.dropout, self.dtype)
    x += drop(feed(name="feed_before")(x, train)) / 2
    x += drop(
      SelfAttention(
        self.heads,
        self.positions,
        self.left,
        self.right,
        self.dtype,
        self.chunk,
        name="attention",
      )(x, mask)
    )
    x += drop(
      Convolution(
        self.kernel,
        self.conv_norm,
        self.causal_conv,
        self.dtype,
        name="convolution",
      )(x, mask, train)
    )
    x += drop(feed(name="feed_after")(x, train)) / 2
    return layer_norm(name="norm")(x)


class _Scanned(ConformerBlock):
  """A block with the signature of `nn.scan`."""

  @nn.compact
  def __call__(  # type: ignore[override]
    self, x: jax.Array, mask: jax.Array, train: bool
  ) -> tuple[jax.Array, None]:
    return super().__call__(x, mask, train=train), None


class Conformer(bounds.Checked, nn.Module):
  """Conformer blocks.

  Attributes:
    layers: number of blocks.
    width: channels of a frame's vector.
    heads: attention heads.
    hidden: width of the feed-forward layers.
    kernel: taps of the depthwise convolutions; odd, unless causal.
    positions: how attention knows distances. "none": only by the convolutions.
      "rotary": rotates queries and keys. "rotary_input": rotates what queries
      and keys are projected from, each head's share of it (wav2vec 2.0
      conformers of transformers, MusicFM). "relative_key": adds the product of
      the query and a learned vector of the distance (w2v-BERT 2.0).
    conv_norm: norm after the depthwise convolution: "layer", or "batch" with
      running statistics in the collection "batch_stats".
    causal_conv: the convolutions see no later frames.
    dropout: rate in training, on each sublayer's output and hidden units.
    remat: what the backward pass recomputes, see `Transformer`.
    final_norm: applies another norm to the output.
    dtype: compute dtype; parameters, norms and sums are float32.
    left: "relative_key" treats all keys at least this far before a query alike.
    right: likewise after a query.
    chunk: frames of a chunk: attention of its frames to themselves and to the
      chunk before, so that its memory grows with the length of a clip instead
      of the square; 0: to all frames. What convolutions see does not change.
  """

  called = "the conformer"

  layers: Annotated[int, whole(1, 256)]
  width: Annotated[int, whole(2, 1 << 14)]
  heads: Annotated[int, whole(1, 256)]
  hidden: Annotated[int, whole(1, 1 << 17)]
  kernel: Annotated[int, whole(1, 1 << 10)] = 31
  positions: Annotated[str, one_of(POSITIONS)] = "relative_key"
  conv_norm: Annotated[str, one_of(NORMS)] = "layer"
  causal_conv: Annotated[bool, flag()] = False
  dropout: Annotated[float, number(0, 1)] = 0.0
  remat: Annotated[str, one_of(("none", *REMAT))] = "none"
  final_norm: Annotated[bool, flag()] = False
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32
  left: Annotated[int, whole(0, 1 << 16)] = 64
  right: Annotated[int, whole(0, 1 << 16)] = 8
  chunk: Annotated[int, whole(0, 1 << 20)] = 0

  @property
  def problem(self) -> str | None:
    """See the base class."""
    parts = self.heads
    if self.positions in ("rotary", "rotary_input"):
      parts *= 2
    if self.width % parts:
      return f"its width is {self.width}; it must be a multiple of {parts}"
    if self.kernel % 2 == 0 and not self.causal_conv:
      return f"its kernel is {self.kernel}; it must be odd, or causal_conv true"
    return None

  @property
  def block(self) -> dict[str, Any]:
    """Fields of a `ConformerBlock`."""
    return dict(
      width=self.width,
      heads=self.heads,
      hidden=self.hidden,
      kernel=self.kernel,
      positions=self.positions,
      conv_norm=self.conv_norm,
      causal_conv=self.causal_conv,
      dropout=self.dropout,
      dtype=self.dtype,
      left=self.left,
      right=self.right,
      chunk=self.chunk,
    )

  def setup(self) -> None:
    """Builds the blocks."""
    # Argument 3 is `train`.
    blocks = stacked.scan(_Scanned, self.layers, remat=self.remat, static=3)
    self.blocks = blocks(**self.block)
    if self.final_norm:
      self.norm = layer_norm()

  def __call__(
    self, x: jax.Array, mask: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Runs all blocks.

    Args:
      x: [batch, frames, width].
      mask: bool [batch, frames], True for valid frames.
      train: see `ConformerBlock`.

    Returns:
      float32 [batch, frames, width], 0 where the mask is False.

    Raises:
      ValueError: x or mask have another shape.
    """
    x, _ = self.blocks(self._masked(x, mask), mask, train)
    if self.final_norm:
      x = self.norm(x)
    return jnp.where(mask[..., None], x, 0)

  def hidden_states(
    self, x: jax.Array, mask: jax.Array, layer: int
  ) -> jax.Array:
    """Runs the first blocks, without training.

    Args:
      x: [batch, frames, width].
      mask: bool [batch, frames], True for valid frames.
      layer: number of blocks to run, not a traced value.

    Returns:
      The output of the last of them before any final norm: float32 [batch,
      frames, width], 0 where the mask is False.

    Raises:
      ValueError: there is no such layer, or x or mask have another shape.
    """
    if not 1 <= layer <= self.layers:
      raise ValueError(f"layer is {layer}; expected 1 to {self.layers}")
    block = ConformerBlock(**self.block, parent=None)
    variables = {
      name: tree["blocks"]
      for name, tree in self.variables.items()
      if "blocks" in tree
    }

    x = self._masked(x, mask)
    x = stacked.run_first(block, variables, layer, x, mask)
    return jnp.where(mask[..., None], x, 0)

  def _masked(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    """Makes padding 0, or a NaN in it would reach every frame."""
    bounds.check_shape("x", x, batch=..., frames=..., width=self.width)
    batch, count, _ = x.shape
    bounds.check_shape("mask", mask, batch=batch, frames=count)
    x = jnp.where(mask[..., None], x.astype(jnp.float32), 0)
    return rules.constrain(x, "batch", None, None)
