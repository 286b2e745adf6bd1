"""Causal attention over a sliding window.

A token attends to itself and the `window` - 1 tokens before it, and to the
first keys of all, which stay visible: learned sinks (Xiao et al. 2023, arXiv
2309.17453, 3.3) and the prefix of a sequence, its conditions. Without
positions, such a model may go on beyond the length of its training clips, as
Magenta RealTime 2 does: what a token sees never changes its length.

`mask` is the formula. `attend` needs time and memory in proportion to the
window, not to the length.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.nn import attention


@flax.struct.dataclass
class Band:
  """What the tokens of whole sequences attend to.

  Attributes:
    valid: bool [batch or 1, tokens]; other tokens are attended to by themselves
      alone.
    window: tokens that a token attends to, itself included.
    before: first tokens, which stay visible to all after them.
    sinks: keys before those of the tokens, visible to all.
  """

  valid: jax.Array
  window: int = flax.struct.field(pytree_node=False)
  before: int = flax.struct.field(pytree_node=False)
  sinks: int = flax.struct.field(pytree_node=False)


def pays(window: int, tokens: int) -> bool:
  """Whether `attend` beats a mask: it has two windows of keys per query."""
  return 0 < 2 * window < tokens


def mask(count: int, *, window: int, before: int, sinks: int) -> np.ndarray:
  """Which keys each token of a sequence attends to.

  Args:
    count: number of tokens.
    window: see `Band`; 0 means all tokens.
    before: see `Band`.
    sinks: see `Band`.

  Returns:
    bool [1, 1, count, sinks + count].
  """
  query, key = np.arange(count)[:, None], np.arange(count)
  seen = key <= query
  if window:
    seen &= (query - key < window) | (key < before)
  return np.pad(seen, ((0, 0), (sinks, 0)), constant_values=True)[None, None]


def itself(count: int, sinks: int) -> np.ndarray:
  """Which key is the token's own: bool [count, sinks + count]."""
  return np.eye(count, sinks + count, sinks, dtype=bool)


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  band: Band,
  *,
  scale: float | None = None,
) -> jax.Array:
  """Attention over a window, in blocks as long as the window.

  The queries of a block attend to their own block and the one before it.

  Args:
    q: [batch, tokens, heads, head_dim].
    k: [batch, sinks + tokens, kv_heads, head_dim].
    v: same shape as k.
    band: the window.
    scale: see `attention.attend`.

  Returns:
    Same shape and dtype as q.
  """
  batch, before, window = q.shape[0], band.before, band.window
  first, steps = band.sinks + before, q.shape[1] - before
  valid = jnp.broadcast_to(band.valid, (batch, band.valid.shape[1]))
  head = jnp.pad(
    valid[:, :before], ((0, 0), (band.sinks, 0)), constant_values=True
  )
  count = -(-steps // window)

  def blocks(x: jax.Array, left: int) -> jax.Array:
    """Cuts [batch, steps, ...] into [batch, left + count, window, ...]."""
    room = (left * window, count * window - steps)
    x = jnp.pad(x, ((0, 0), room, *((0, 0),) * (x.ndim - 2)))
    return x.reshape(batch, left + count, window, *x.shape[2:])

  def pairs(x: jax.Array, shared: jax.Array) -> jax.Array:
    """Keys of each block: the shared ones, the block before it, its own."""
    cut = blocks(x, 1)
    shared = jnp.broadcast_to(
      shared[:, None], (batch, count, *shared.shape[1:])
    )
    found = jnp.concatenate([shared, cut[:, :-1], cut[:, 1:]], axis=2)
    return found.reshape(batch * count, -1, *x.shape[2:])

  # Key j of a pair is window - j tokens before the first query of its block.
  away = np.arange(window)[:, None] + window - np.arange(2 * window)
  near = np.pad(
    (away >= 0) & (away < window), ((0, 0), (first, 0)), constant_values=True
  )
  seen = pairs(valid[:, before:], head)[:, None, None] & near
  seen |= np.pad(away == 0, ((0, 0), (first, 0)))
  y = attention.attend(
    blocks(q[:, before:], 0).reshape(-1, window, *q.shape[2:]),
    pairs(k[:, first:], k[:, :first]),
    pairs(v[:, first:], v[:, :first]),
    mask=seen,
    scale=scale,
  )
  y = y.reshape(batch, count * window, *q.shape[2:])[:, :steps]
  if not before:
    return y
  own = mask(before, window=0, before=0, sinks=band.sinks)
  x = attention.attend(
    q[:, :before],
    k[:, :first],
    v[:, :first],
    mask=own & head[:, None, None] | itself(before, band.sinks),
    scale=scale,
  )
  return jnp.concatenate([x, y], axis=1)
