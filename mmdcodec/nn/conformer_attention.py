"""Attention of a conformer, to all frames of a clip or within chunks.

With chunks, a frame attends to those of its own chunk and of the one before.
Memory and time then grow in proportion to a clip, and a stack of n blocks hears
at most n chunks back and to the end of its own.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import platform
from mmdcodec.nn import positions as positions_lib
from mmdcodec.nn.attention import Attention, merge_heads
from mmdcodec.nn.norms import layer_norm

# Of the initial weights before each residual sum, times their number of inputs.
# Otherwise what attention finds, at first a mean over the clip, outweighs the
# frame itself after a few blocks.
OUT_VARIANCE = 0.1


def chunks(x: jax.Array, size: int) -> jax.Array:
  """Cuts frames into chunks, the last of which is filled up with zeros.

  Args:
    x: [batch, frames, ...].
    size: frames of a chunk.

  Returns:
    [batch, chunks, size, ...].
  """
  more = [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2)
  x = jnp.pad(x, more)
  return x.reshape(len(x), -1, size, *x.shape[2:])


def with_chunk_before(x: jax.Array, size: int) -> jax.Array:
  """Puts before each chunk the one to its left, and zeros before the first.

  Args:
    x: [batch, frames, ...].
    size: frames of a chunk.

  Returns:
    [batch, chunks, 2 * size, ...].
  """
  x = chunks(x, size)
  first = [(0, 0), (1, 0)] + [(0, 0)] * (x.ndim - 2)
  return jnp.concatenate([jnp.pad(x, first)[:, :-1], x], axis=2)


class SelfAttention(nn.Module):
  """Attention of frames to valid frames, on the norm of its input.

  Attributes:
    heads: attention heads.
    positions: see `Conformer`.
    left: see `Conformer`.
    right: see `Conformer`.
    dtype: compute dtype.
    chunk: see `Conformer`.
  """

  heads: int
  positions: str
  left: int
  right: int
  dtype: Any
  chunk: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    """float32 [batch, frames, width], bool [batch, frames] -> as x."""
    batch, count, width = x.shape
    dim = width // self.heads
    attention = Attention(
      width=width,
      heads=self.heads,
      kv_heads=self.heads,
      head_dim=dim,
      rotary=self.positions == "rotary",
      use_bias=True,
      out_variance=OUT_VARIANCE,
      dtype=self.dtype,
    )
    # Stores its parameters beside the norm.
    nn.share_scope(self, attention)
    x = layer_norm(name="norm")(x)
    at = jnp.arange(count)[None]
    keys, values = attention.keys_and_values(x, at)
    bias: Callable[[jax.Array], jax.Array] | None = None
    if self.positions == "rotary_input":
      x = positions_lib.rotate(x.reshape(batch, count, -1, dim), at)
      x = x.reshape(batch, count, width)
      keys, _ = attention.keys_and_values(x, at)
    elif self.positions == "relative_key":
      shape = self.left + self.right + 1, dim
      table = self.param(
        "distances", nn.initializers.normal(1.0), shape, jnp.float32
      )

      bias = functools.partial(self._distance_logits, table)
    if self.chunk:
      merge = lambda a: a.reshape(-1, *a.shape[2:])
      keys, values, mask = (
        merge(with_chunk_before(a, self.chunk)) for a in (keys, values, mask)
      )
      at = jnp.broadcast_to(at, (batch, count))
      x, at = (merge(chunks(a, self.chunk)) for a in (x, at))
    if platform.traced_for() == "cpu":
      # At 512 frames of width 1024, attention alone takes a third less time; a
      # stack of blocks, with the sums over distances too, 4% less.
      keys, values = merge_heads(keys), merge_heads(values)
    seen = mask[:, None, None, :]
    y = attention(x, keys, values, positions=at, mask=seen, bias=bias)
    return y.reshape(batch, -1, width)[:, :count]

  def _distance_logits(self, table: jax.Array, q: jax.Array) -> jax.Array:
    """float32 [batch, heads, queries, keys] of [distances, head_dim] and q."""
    y = jnp.einsum("bqhd,rd->bhqr", q, table.astype(q.dtype))
    y = y.astype(jnp.float32) * q.shape[-1] ** -0.5
    if not self.chunk:
      return positions_lib.relative_logits(y, self.left, self.right)
    queries = np.arange(self.chunk)[:, None]
    distance = np.arange(-self.chunk, self.chunk) - queries
    found = np.clip(distance, -self.left, self.right) + self.left
    return y[..., queries, found]
