"""Attention: heads of queries over keys and values, by the fastest backend.

Vaswani et al. 2017, arXiv 1706.03762, 3.2; several query heads may share one
head of keys (Ainslie et al. 2023, arXiv 2305.13245), and queries and keys may
be normalised (Dehghani et al. 2023, arXiv 2302.05442, 2).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import platform
from mmdcodec.nn import positions as positions_lib
from mmdcodec.nn import splash

_SUMS = jnp.float32


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  causal: bool = False,
  mask: jax.Array | None = None,
  bias: jax.Array | None = None,
) -> jax.Array:
  """Weighted sums of values; logits and softmax are float32.

  On GPUs by cuDNN where it can (bfloat16, no mask, no bias, even numbers of
  tokens), on TPUs by splash attention (causal, no mask, no bias, long), else by
  XLA.

  Args:
    q: [batch, queries, heads, head_dim].
    k: [batch, keys, kv_heads, head_dim]; kv_heads divide the heads. Or as
      `merge_heads` lays them: [batch * kv_heads, keys, head_dim].
    v: as k.
    causal: query i sees keys up to i; there are as many. Not with merged keys.
    mask: bool, broadcast to [batch, heads, queries, keys], True for what is
      seen. A query that sees nothing gets the mean of all values.
    bias: float, as the mask; added to the logits.

  Returns:
    As q.
  """
  if k.ndim == 3:
    return _attend_merged(q, k, v, mask, bias)
  device, plain = platform.traced_for(), mask is None and bias is None
  if device == "tpu" and causal and plain and splash.fits(q):
    return splash.attend(q, k, v)
  # What cuDNN takes, forward and backward: its masks are of other shapes.
  flash = (
    device == "gpu"
    and plain
    and q.dtype == jnp.bfloat16
    and q.shape[1] > 1
    and q.shape[1] % 2 == k.shape[1] % 2 == q.shape[3] % 8 == 0
  )
  return jax.nn.dot_product_attention(
    q,
    k,
    v,
    bias=bias,
    mask=mask,
    is_causal=causal,
    implementation="cudnn" if flash else "xla",
  )


def merge_heads(x: jax.Array) -> jax.Array:
  """Keys or values as a CPU decodes with them fastest.

  XLA's CPU backend copies what is stored token by token, head within it, into
  the order of a matrix product per head, once for every token that is drawn. In
  this form there is nothing to copy: a step of attention to 1504 keys takes a
  quarter of the time. (Kept apart, batch and heads are copied all the same.)

  Args:
    x: [batch, tokens, kv_heads, head_dim].

  Returns:
    [batch * kv_heads, tokens, head_dim].
  """
  batch, tokens, heads, dim = x.shape
  return x.swapaxes(1, 2).reshape(batch * heads, tokens, dim)


def _attend_merged(q, k, v, mask, bias):
  """`attend` to merged keys and values."""
  batch, queries, heads, dim = q.shape
  merged, length = k.shape[0], k.shape[1]
  # Heads that share keys become further queries of them.
  rows = q.swapaxes(1, 2).reshape(merged, -1, dim)
  logits = jnp.einsum("hqd,hkd->hqk", rows, k, preferred_element_type=_SUMS)
  logits = logits.reshape(batch, heads, queries, length) * dim**-0.5
  if bias is not None:
    logits += bias
  if mask is not None:
    # Of the size that JAX's own attention takes; far from where sums of
    # it and a bias would be infinite.
    logits = jnp.where(mask, logits, -0.7 * jnp.finfo(_SUMS).max)
  weights = jax.nn.softmax(logits).astype(v.dtype)
  y = jnp.einsum("hqk,hkd->hqd", weights.reshape(merged, -1, length), v)
  return y.reshape(batch, heads, queries, dim).swapaxes(1, 2)


def fresh(scale: float = 1.0):
  """Initial weights: normal, with variance `scale` / inputs."""
  return nn.initializers.variance_scaling(scale, "fan_in", "normal")


class Attention(nn.Module):
  """Projections around `attend`, without biases.

  Attributes:
    width: of what comes out.
    heads: of queries.
    kv_heads: of keys and values; divide the heads.
    head_dim: of each.
    rotary: turns queries and keys by their positions.
    qk_norm: queries and keys, each head by its root mean square.
    out_scale: of the variance of the last projection's fresh weights.
    dtype: of the computation; sums are float32.
  """

  width: int
  heads: int
  kv_heads: int
  head_dim: int
  rotary: bool = False
  qk_norm: bool = False
  out_scale: float = 1.0
  dtype: Any = jnp.float32

  def setup(self):
    """Builds the projections."""

    def dense(features, axis=-1, scale=1.0):
      return nn.DenseGeneral(
        features,
        axis=axis,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=fresh(scale),
      )

    self.query = dense((self.heads, self.head_dim))
    self.key = dense((self.kv_heads, self.head_dim))
    self.value = dense((self.kv_heads, self.head_dim))
    self.out = dense(self.width, (-2, -1), self.out_scale)
    if self.qk_norm:
      self.query_norm = nn.RMSNorm(epsilon=1e-6, dtype=jnp.float32)
      self.key_norm = nn.RMSNorm(epsilon=1e-6, dtype=jnp.float32)

  def keys_of(
    self, x: jax.Array, positions: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Keys and values, each [batch, tokens, kv_heads, head_dim].

    Args:
      x: [batch, tokens, any width], what is attended to.
      positions: int [batch or 1, tokens], for rotary positions.
    """
    k = self.key(x)
    if self.qk_norm:
      k = self.key_norm(k).astype(k.dtype)
    if self.rotary:
      k = positions_lib.rotate(k, positions)
    return k, self.value(x)

  def __call__(
    self,
    x: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    *,
    positions: jax.Array | None = None,
    causal: bool = False,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
  ) -> jax.Array:
    """Attends from x to what `keys_of` gave.

    Args:
      x: [batch, queries, width].
      keys: [batch, keys, kv_heads, head_dim], or merged, see `attend`.
      values: as keys.
      positions: int [batch or 1, queries] of x, for rotary positions.
      causal: see `attend`; `mask` and `bias` too.
      mask: see there.
      bias: see there.

    Returns:
      float32 [batch, queries, width].
    """
    q = self.query(x)
    if self.qk_norm:
      q = self.query_norm(q).astype(q.dtype)
    if self.rotary:
      q = positions_lib.rotate(q, positions)
    keys, values = keys.astype(q.dtype), values.astype(q.dtype)
    y = attend(q, keys, values, causal=causal, mask=mask, bias=bias)
    return self.out(y).astype(jnp.float32)
