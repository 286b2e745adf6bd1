"""Slots of a cache: where tokens are kept, and which keys a token sees.

The first slots hold the sinks, then come the prefix and the other tokens. If
attention has a window, no more slots than that are needed after the prefix:
they form a ring, in which each token replaces the one that left the window.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.nn.transformer import Transformer


def slots(model: Transformer, length: int, before: int) -> int:
  """Number of slots of a cache.

  Args:
    model: the Transformer.
    length: maximum number of tokens.
    before: how many of them are a prefix that stays visible.
  """
  steps = length - before
  return model.sinks + before + min(steps, model.window or steps)


@flax.struct.dataclass
class Plan:
  """Where the new tokens of a call go, and which keys they see.

  Attributes:
    slot: int32 scalar, slot of the first new token.
    mask: bool [batch or 1, 1, new tokens, keys].
    tokens: int [keys - sinks], the token of each key; None if they are all
      tokens in order.
    sources: int [slots], or None. With it, the new tokens attend to the content
      of the cache and then to themselves, and slot i gets key `sources[i]`
      of both. Without it, the new tokens are stored first, side by side.
  """

  slot: jax.Array
  mask: jax.Array
  tokens: jax.Array | None = None
  sources: jax.Array | None = None


def plan(
  model: Transformer,
  size: int,
  before: int,
  at: jax.Array,
  count: int,
  valid: jax.Array,
  stop: jax.Array | None,
) -> Plan:
  """Plans a call; for the arguments see `cache.extend`.

  Args:
    model: the Transformer.
    size: number of slots.
    before: length of the prefix.
    at: int32 scalar, the first new token.
    count: number of new tokens.
    valid: bool [batch or 1, length], tokens that may be attended to.
    stop: new tokens from this one on are not kept; None keeps all.
  """
  sinks, length = model.sinks, valid.shape[1]
  ring = size - sinks - before
  queries = at + jnp.arange(count)[:, None]

  def mask(keys: jax.Array, valid: jax.Array) -> jax.Array:
    seen = keys <= queries
    if model.window:
      seen &= (queries - keys < model.window) | (keys < before)
    seen = valid[:, None, None, :] & seen
    room = ((0, 0), (0, 0), (0, 0), (sinks, 0))
    return jnp.pad(seen, room, constant_values=True) if sinks else seen

  if length - before <= ring:
    return Plan(at + sinks, mask(jnp.arange(length), valid))

  def held(end: jax.Array) -> jax.Array:
    """The token in each slot after those before `end`; -1 for none."""
    last = end - 1 - before
    steps = last - (last - jnp.arange(ring)) % ring
    steps = jnp.where(steps < 0, -1, before + steps)
    prefix = np.arange(before)
    return jnp.concatenate([jnp.where(prefix < end, prefix, -1), steps])

  if count == 1:
    keys, sources = held(at + 1), None
    slot = sinks + jnp.where(at < before, at, before + (at - before) % ring)
  else:
    last = held(at + count if stop is None else jnp.minimum(at + count, stop))
    keys = jnp.concatenate([held(at), at + jnp.arange(count)])
    kept = sinks + np.arange(before + ring)
    kept = jnp.where(last < at, kept, size + last - at)
    sources = jnp.concatenate([jnp.arange(sinks), kept])
    slot = at
  tokens = jnp.maximum(keys, 0)
  valid = jnp.take(valid, tokens, axis=1) & (keys >= 0)
  return Plan(slot, mask(keys, valid), tokens, sources)


def store(
  held: jax.Array, new: jax.Array, sources: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The keys that new tokens attend to, and those to keep; see `Plan`.

  Args:
    held: [..., slots, ...] with the slots as axis 1, content of the cache.
    new: the same of the new tokens.
    sources: see `Plan`.
  """
  seen = jnp.concatenate([held, new.astype(held.dtype)], axis=1)
  return seen, jnp.take(seen, sources, axis=1)
