"""One block of the decoder Transformer.

Pre-norm, as in MusicGen (Copet et al. 2023, arXiv 2306.05284, 3.1): causal
self-attention, cross-attention to a condition and a feed-forward layer, each
applied to the norm of its input and added to it. Only norms have biases.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.nn import sliding
from mmdcodec.nn.attention import Attention, kernel_init
from mmdcodec.nn.turned import TurnedDense

_gelu = functools.partial(nn.gelu, approximate=False)
# GATED ones have a second factor: gelu(x W) * (x V), as in T5 1.1, or silu
# (Shazeer 2020, arXiv 2002.05202).
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "gelu": _gelu,
  "relu": nn.relu,
  "geglu": _gelu,
  "swiglu": nn.silu,
}
GATED = ("geglu", "swiglu")
# "rms" neither subtracts the mean nor adds a bias (Zhang and Sennrich 2019,
# arXiv 1910.07467).
NORMS: dict[str, Callable[..., nn.Module]] = {
  "layer": nn.LayerNorm,
  "rms": nn.RMSNorm,
}


@flax.struct.dataclass
class View:
  """Positions of the tokens of a call, and the keys they attend to.

  Attributes:
    positions: int [batch or 1, tokens].
    mask: bool [batch or 1, 1, tokens, keys], True where a token may attend.
      None means that the keys are the tokens themselves and attention is
      causal. Sinks are the first keys.
    bias: float32 [batch or 1, heads, tokens, keys], added to the logits by
      relative positions; or None.
    band: attention over a window instead of a mask; or None.
  """

  positions: jax.Array
  mask: jax.Array | np.ndarray | None = None
  bias: jax.Array | None = None
  band: sliding.Band | None = None


@flax.struct.dataclass
class Cross:
  """Keys and values of a condition, projected for one block.

  Attributes:
    keys: [batch, length, heads, head_dim], or merged by
      `attention.merge_heads`.
    values: same shape as keys.
    mask: bool [batch, 1, 1, length], True where a token may attend.
  """

  keys: jax.Array
  values: jax.Array
  mask: jax.Array


UpdateCache = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class Block(nn.Module):
  """One layer of the Transformer.

  Attributes:
    width: channels of a token's vector.
    heads: query heads of attention.
    kv_heads: key and value heads of self-attention; must divide `heads`.
    hidden: width of the feed-forward layer.
    activation: activation of the feed-forward layer, a key of ACTIVATIONS.
    norms: kind of the norms, a key of NORMS.
    rotary: rotates queries and keys of self-attention by their positions.
    qk_norm: normalises queries and keys, see `Attention`.
    sinks: learned keys and values of self-attention, see `Attention`.
    cross: adds cross-attention to a condition.
    dropout: rate in training, on each sublayer's output and on the hidden
      units.
    out_scale: variance of the initial weights before each residual sum, times
      their number of inputs.
    turned: all kernels are [outputs, inputs], see `nn.turned`. Those with the
      same input are one: self-attention's `query_key_value`, `gate_and_inner`.
    dtype: compute dtype; parameters, norms and sums are float32.
  """

  width: int
  heads: int
  kv_heads: int
  hidden: int
  activation: str = "gelu"
  norms: str = "layer"
  rotary: bool = False
  qk_norm: bool = False
  sinks: int = 0
  cross: bool = True
  dropout: float = 0.0
  out_scale: float = 1.0
  turned: bool = False
  dtype: Any = jnp.float32

  def setup(self) -> None:
    """Builds the sublayers."""

    def attention(
      kv_heads: int, rotary: bool = False, sinks: int = 0, fused: bool = False
    ) -> Attention:
      return Attention(
        width=self.width,
        heads=self.heads,
        kv_heads=kv_heads,
        head_dim=self.width // self.heads,
        rotary=rotary,
        qk_norm=self.qk_norm,
        sinks=sinks,
        out_variance=self.out_scale,
        turned=self.turned,
        fused=fused,
        dtype=self.dtype,
      )

    def dense(features: int, scale: float = 1.0) -> nn.Module:
      if self.turned:
        return TurnedDense((features,), 1, self.dtype)
      return nn.Dense(
        features,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=kernel_init(scale),
      )

    # Norms stay in float32, whatever the dtype of the computation.
    norm = functools.partial(NORMS[self.norms], epsilon=1e-5, dtype=jnp.float32)
    self.attention_norm = norm()
    self.attention = attention(
      self.kv_heads, self.rotary, self.sinks, self.turned
    )
    if self.cross:
      self.cross_norm = norm()
      self.cross_attention = attention(self.heads)
    self.feed_norm = norm()
    gated = self.activation in GATED
    if gated and self.turned:
      self.gate_and_inner = dense(2 * self.hidden)
    else:
      self.inner = dense(self.hidden)
      if gated:
        self.gate = dense(self.hidden)
    self.outer = dense(self.width, self.out_scale)
    self.drop = nn.Dropout(self.dropout)

  def cross_keys(self, states: jax.Array, mask: jax.Array) -> Cross:
    """Keys and values of a condition for this block.

    Args:
      states: [batch, length, any width].
      mask: bool [batch, length].
    """
    keys, values = self.cross_attention.keys_and_values(states)
    return Cross(keys, values, mask[:, None, None, :])

  def with_sinks(
    self, keys: jax.Array, values: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """See `Attention.with_sinks`, of self-attention."""
    return self.attention.with_sinks(keys, values)

  def __call__(
    self,
    x: jax.Array,
    view: View,
    cross: Cross | None = None,
    *,
    update_cache: UpdateCache | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Applies the block.

    Args:
      x: float32 [batch, tokens, width].
      view: positions of the tokens, and what they attend to.
      cross: the condition; None skips cross-attention.
      update_cache: stores keys and values of x in a cache and returns those of
        all tokens that `view.mask` covers, after the sinks.
      train: applies dropout, with the random key "dropout".

    Returns:
      float32 [batch, tokens, width].
    """
    drop = functools.partial(self.drop, deterministic=not train)
    y = self.attention_norm(x)
    q, keys, values = self.attention.projections(y, view.positions)
    if update_cache is None:
      keys, values = self.attention.with_sinks(keys, values)
    else:
      keys, values = update_cache(keys, values)
    how = None
    if view.band is not None:
      how = functools.partial(sliding.attend, band=view.band)
    y = self.attention.attended(
      q,
      keys,
      values,
      causal=view.mask is None,
      mask=view.mask,
      bias=view.bias,
      how=how,
    )
    x += drop(y)
    if cross is not None:
      y = self.cross_attention(
        self.cross_norm(x), cross.keys, cross.values, mask=cross.mask
      )
      x += drop(y)
    y = self.feed_norm(x)
    activate = ACTIVATIONS[self.activation]
    if self.activation not in GATED:
      y = activate(self.inner(y))
    elif self.turned:
      gate, y = jnp.split(self.gate_and_inner(y), 2, axis=-1)
      y = activate(gate) * y
    else:
      y = activate(self.gate(y)) * self.inner(y)
    return x + drop(self.outer(drop(y)).astype(jnp.float32))
