"""Attention: queries of several heads over keys and values.

Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762, 3.2).
Several query heads may share one key and value head (Ainslie et al. 2023,
arXiv 2305.13245), and queries and keys may be normalised (Dehghani et al. 2023,
arXiv 2302.05442, 2). `attend` picks the fastest backend.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mmdcodec import bounds, platform
from mmdcodec.bounds import flag, null_or, number, whole
from mmdcodec.nn import positions as positions_lib
from mmdcodec.nn import splash
from mmdcodec.nn.turned import TurnedDense


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  causal: bool = False,
  mask: ArrayLike | None = None,
  bias: jax.Array | None = None,
  scale: float | None = None,
) -> jax.Array:
  """Weighted sums of values, with float32 logits and softmax.

  GPUs use cuDNN where it applies (Ampere or later, bfloat16, no mask, no bias,
  even numbers of tokens, heads of up to 128 channels, on Hopper up to 256), and
  where the installed version knows the chip.
  TPUs use splash attention for long causal sequences without a mask or bias.
  XLA computes everything else.

  Args:
    q: [batch, queries, heads, head_dim].
    k: [batch, keys, kv_heads, head_dim], where kv_heads divides heads; or the
      result of `merge_heads`: [batch * kv_heads, keys, head_dim].
    v: same shape as k.
    causal: query i attends to keys 0..i. Needs as many keys as queries, not
      merged.
    mask: bool, broadcastable to [batch, heads, queries, keys]; True where a
      query may attend. A query without any key gets the mean of all values.
    bias: float, same shape as the mask; added to the scaled logits.
    scale: factor on the logits; None means 1 / sqrt(head_dim).

  Returns:
    Same shape and dtype as q.
  """
  if k.ndim == 3:
    return _attend_merged(q, k, v, mask, bias, scale)
  device, plain = platform.traced_for(), mask is None and bias is None
  if device == "tpu" and causal and plain and splash.fits(q):
    return splash.attend(q, k, v, scale=scale)
  # cuDNN supports these shapes, forward and backward; its masks differ.
  # On Blackwell, versions before 9.11 have no backward pass for wide heads.
  capability = platform.cuda_capability()
  widest = 256 if 9 <= capability < 10 else 128
  flash = (
    device == "gpu"
    and plain
    and q.dtype == jnp.bfloat16
    and q.shape[1] > 1
    and q.shape[1] % 2 == k.shape[1] % 2 == q.shape[3] % 8 == 0
    and capability >= 8
    and q.shape[3] <= widest
  )
  compute = functools.partial(
    jax.nn.dot_product_attention,
    q,
    k,
    v,
    bias=bias,
    mask=mask,
    scale=scale,
    is_causal=causal,
  )
  if flash:
    # Of a chip that the installed version does not know: B300 before 9.11.
    with contextlib.suppress(NotImplementedError):
      return compute(implementation="cudnn")
  return compute(implementation="xla")


def merge_heads(x: jax.Array) -> jax.Array:
  """Reorders keys or values for the fastest decoding on CPUs and GPUs.

  For every generated token, XLA's CPU backend copies keys [batch, tokens,
  kv_heads, head_dim] into the order of one matrix product per head. The merged
  form needs no copy: a step of attention to 1504 keys takes a quarter of the
  time. (Separate batch and head axes are copied as well.) Libraries of GPUs
  want one batch axis in front, too.

  Args:
    x: [batch, tokens, kv_heads, head_dim].

  Returns:
    [batch * kv_heads, tokens, head_dim].
  """
  batch, tokens, heads, dim = x.shape
  return x.swapaxes(1, 2).reshape(batch * heads, tokens, dim)


def _attend_merged(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  mask: ArrayLike | None,
  bias: jax.Array | None,
  scale: float | None,
) -> jax.Array:
  """`attend` for merged keys and values."""
  batch, queries, heads, dim = q.shape
  merged, length = k.shape[0], k.shape[1]
  # Query heads that share a key head become further queries of it.
  rows = q.swapaxes(1, 2).reshape(merged, -1, dim)
  logits = jnp.einsum(
    "hqd,hkd->hqk", rows, k, preferred_element_type=jnp.float32
  )
  logits = logits.reshape(batch, heads, queries, length)
  logits = logits * (dim**-0.5 if scale is None else scale)
  if bias is not None:
    logits += bias
  if mask is not None:
    # JAX's own attention also masks with this value: its sum with a bias stays
    # finite.
    logits = jnp.where(mask, logits, -0.7 * jnp.finfo(jnp.float32).max)
  weights = jax.nn.softmax(logits).astype(v.dtype)
  y = jnp.einsum("hqk,hkd->hqd", weights.reshape(merged, -1, length), v)
  return y.reshape(batch, heads, queries, dim).swapaxes(1, 2)


def kernel_init(variance: float = 1.0) -> nn.initializers.Initializer:
  """Normal initializer of variance `variance` / (inputs of the layer)."""
  return nn.initializers.variance_scaling(variance, "fan_in", "normal")


class Attention(bounds.Checked, nn.Module):
  """Query, key, value and output projections around `attend`.

  This module serves as decoder self-attention, cross-attention, and the
  bidirectional attention of T5 (scale 1 and a bias on the logits) and of
  conformers (biased projections).

  Attributes:
    width: channels of the output.
    heads: query heads.
    kv_heads: key and value heads; must divide `heads`.
    head_dim: channels per head.
    rotary: rotates queries and keys by their positions.
    qk_norm: normalises each head of queries and keys by its root mean square.
    use_bias: adds a learned bias to each projection.
    scale: factor on the logits; None means 1 / sqrt(head_dim). A larger scale
      makes initial queries proportionally smaller.
    sinks: learned keys and values of each key head, see `with_sinks`.
    out_variance: variance of the output projection's initial weights, times
      its number of inputs.
    turned: kernels are [outputs, inputs], see `nn.turned`; not with a bias.
    fused: queries, keys and values are one product, of a turned kernel, see
      `projections`.
    dtype: compute dtype; parameters and sums are float32.
  """

  called = "attention"

  width: Annotated[int, whole(1, 1 << 14)]
  heads: Annotated[int, whole(1, 256)]
  kv_heads: Annotated[int, whole(1, 256)]
  head_dim: Annotated[int, whole(1, 1 << 14)]
  rotary: Annotated[bool, flag()] = False
  qk_norm: Annotated[bool, flag()] = False
  use_bias: Annotated[bool, flag()] = False
  scale: Annotated[float | None, null_or(number(1e-6, 1e6))] = None
  sinks: Annotated[int, whole(0, 1 << 10)] = 0
  out_variance: Annotated[float, number(0, 1e6)] = 1.0
  turned: Annotated[bool, flag()] = False
  fused: Annotated[bool, flag()] = False
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if self.heads % self.kv_heads:
      return f"its {self.heads} heads can't share {self.kv_heads} kv_heads"
    if self.rotary and self.head_dim % 2:
      return f"its head_dim is {self.head_dim}; rotary positions need pairs"
    if self.turned and self.use_bias:
      return "turned kernels have no bias: set use_bias or turned to false"
    if self.fused and not self.turned:
      return "fused kernels are turned: set turned to true, or fused to false"
    return None

  def setup(self) -> None:
    """Builds the projections."""

    def dense(
      features: int | Sequence[int],
      axis: int | Sequence[int] = -1,
      variance: float = 1.0,
    ) -> nn.Module:
      if self.turned:
        outputs = (features,) if isinstance(features, int) else features
        inputs = 1 if isinstance(axis, int) else len(axis)
        return TurnedDense(outputs, inputs, self.dtype)
      return nn.DenseGeneral(
        features,
        axis=axis,
        use_bias=self.use_bias,
        dtype=self.dtype,
        kernel_init=kernel_init(variance),
      )

    variance = 1.0
    if self.scale is not None:
      variance = 1 / (self.head_dim * self.scale**2)
    if self.fused:
      heads = self.heads + 2 * self.kv_heads
      self.query_key_value = dense((heads, self.head_dim))
    else:
      self.query = dense((self.heads, self.head_dim), variance=variance)
      self.key = dense((self.kv_heads, self.head_dim))
      self.value = dense((self.kv_heads, self.head_dim))
    self.out = dense(self.width, (-2, -1), self.out_variance)
    if self.qk_norm:
      self.query_norm = nn.RMSNorm(epsilon=1e-6, dtype=jnp.float32)
      self.key_norm = nn.RMSNorm(epsilon=1e-6, dtype=jnp.float32)
    if self.sinks:
      shape = (self.sinks, self.kv_heads, self.head_dim)
      self.sink_keys = self.param(
        "sink_keys", nn.initializers.normal(), shape, jnp.float32
      )
      # At first, attending to a sink means attending to nothing.
      self.sink_values = self.param(
        "sink_values", nn.initializers.zeros, shape, jnp.float32
      )

  def keys_and_values(
    self, x: jax.Array, positions: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Keys and values, each [batch, tokens, kv_heads, head_dim].

    Args:
      x: [batch, tokens, any width], the tokens to attend to.
      positions: int [batch or 1, tokens]; needed for rotary positions.
    """
    return self._as_key(self.key(x), positions), self.value(x)

  def projections(
    self, x: jax.Array, positions: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values of the same tokens, for `attended`.

    Args:
      x: [batch, tokens, width].
      positions: int [batch or 1, tokens]; needed for rotary positions.

    Returns:
      [batch, tokens, heads, head_dim], and two of kv_heads instead.
    """
    if self.fused:
      ends = self.heads, self.heads + self.kv_heads
      q, k, v = jnp.split(self.query_key_value(x), ends, axis=-2)
    else:
      q, k, v = self.query(x), self.key(x), self.value(x)
    return self._as_query(q, positions), self._as_key(k, positions), v

  def _as_query(self, q: jax.Array, positions: jax.Array | None) -> jax.Array:
    if self.qk_norm:
      q = self.query_norm(q).astype(q.dtype)
    return self._rotated(q, positions)

  def _as_key(self, k: jax.Array, positions: jax.Array | None) -> jax.Array:
    if self.qk_norm:
      k = self.key_norm(k).astype(k.dtype)
    return self._rotated(k, positions)

  def with_sinks(
    self, keys: jax.Array, values: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Puts the learned keys and values before those of tokens.

    Args:
      keys: [batch, tokens, kv_heads, head_dim].
      values: same shape as keys.

    Returns:
      Both [batch, sinks + tokens, kv_heads, head_dim].
    """
    if not self.sinks:
      return keys, values

    def join(sinks: jax.Array, x: jax.Array) -> jax.Array:
      shape = (len(x), *sinks.shape)
      sinks = jnp.broadcast_to(jnp.asarray(sinks, x.dtype), shape)
      return jnp.concatenate([sinks, x], axis=1)

    return join(self.sink_keys, keys), join(self.sink_values, values)

  def _rotated(self, x: jax.Array, positions: jax.Array | None) -> jax.Array:
    if not self.rotary:
      return x
    if positions is None:
      raise ValueError("rotary attention needs the positions of its tokens")
    return positions_lib.rotate(x, positions)

  def __call__(
    self,
    x: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    *,
    positions: jax.Array | None = None,
    **options: Any,
  ) -> jax.Array:
    """Attends from x to the result of `keys_and_values`.

    Args:
      x: [batch, queries, width].
      keys: as for `attended`.
      values: as for `attended`.
      positions: int [batch or 1, queries] of x; needed for rotary positions.
      **options: those of `attended`.

    Returns:
      float32 [batch, queries, width].
    """
    q = self._as_query(self.query(x), positions)
    return self.attended(q, keys, values, **options)

  def attended(
    self,
    q: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    *,
    causal: bool = False,
    mask: ArrayLike | None = None,
    bias: jax.Array | Callable[[jax.Array], jax.Array] | None = None,
    how: Callable[..., jax.Array] | None = None,
  ) -> jax.Array:
    """Attention and output projection.

    Args:
      q: [batch, queries, heads, head_dim], the queries of `projections`.
      keys: [batch, keys, kv_heads, head_dim], or merged; see `attend`.
      values: same shape as keys.
      causal: query i attends to keys 0..i.
      mask: bool, broadcastable to [batch, heads, queries, keys]; True where a
        query may attend.
      bias: float, same shape as the mask; added to the logits. Or a function
        that computes it from the queries [batch, queries, heads, head_dim].
      how: computes attention from queries, keys, values and `scale`; None means
        `attend`, with the options above.

    Returns:
      float32 [batch, queries, width].
    """
    keys, values = keys.astype(q.dtype), values.astype(q.dtype)
    if callable(bias):
      bias = bias(q)
    if how is None:
      how = functools.partial(attend, causal=causal, mask=mask, bias=bias)
    y = how(q, keys, values, scale=self.scale)
    return self.out(y).astype(jnp.float32)
