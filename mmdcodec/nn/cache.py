"""Decoding with a cache: the Transformer, a few tokens at a time.

What `Transformer.__call__` computes for a sequence at once, `extend` computes
for the tokens that come next, with the keys and values of those before. It is
the same `Block`. Parameters come in one of two forms, and the cache follows:

  stacked    as they are trained; the blocks run in a scan. The program is
             small, which counts for deep models on TPUs and GPUs.
  by block   a tuple of one tree per block, from `by_block`, made once. A CPU
             would otherwise copy every block's weights out of the stack for
             every token; for the same reason batch and heads of its cache are
             one axis (`attention.merge_heads`).

A program of either form holds one cache, whose length is that of the request.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp

from mmdcodec.nn.attention import merge_heads
from mmdcodec.nn.transformer import Block, Transformer, View


@flax.struct.dataclass
class Cache:
  """Keys and values of the tokens so far.

  Attributes:
    keys: [layers, batch, length, kv_heads, head_dim], or a tuple of one array
      [batch * kv_heads, length, head_dim] per block.
    values: as keys.
  """

  keys: Any
  values: Any


def by_block(params: dict, layers: int) -> dict:
  """A Transformer's parameters with those of each block apart."""
  blocks = tuple(
    jax.tree.map(lambda a, i=i: a[i], params["blocks"]) for i in range(layers)
  )
  return {**params, "blocks": blocks}


def _apart(params: dict) -> bool:
  return isinstance(params["blocks"], tuple)


def empty(model: Transformer, params: dict, batch: int, length: int) -> Cache:
  """A cache without a token, of 2 x layers x batch x length x width numbers.

  (Or width x kv_heads / heads.) Their type is that of the computation.

  Args:
    model: the Transformer.
    params: of it; they say which form the cache has.
    batch: sequences.
    length: tokens that it can hold.
  """
  heads, dim = model.kv_heads, model.width // model.heads
  if _apart(params):
    shape = (batch * heads, length, dim)
    make = lambda: tuple(
      jnp.zeros(shape, model.dtype) for _ in range(model.layers)
    )
  else:
    shape = (model.layers, batch, length, heads, dim)
    make = lambda: jnp.zeros(shape, model.dtype)
  return Cache(make(), make())


def crosses(
  model: Transformer, params: dict, states: jax.Array, mask: jax.Array
) -> Any:
  """What the blocks need of a condition: once for all tokens.

  Args:
    model: the Transformer.
    params: of it.
    states: [batch, length, any width].
    mask: bool [batch, length].

  Returns:
    A `Cross` for all blocks together or a tuple of one for each.
  """
  one = lambda block: Block(**model.block).apply(
    {"params": block}, states, mask, method="cross_keys"
  )
  if _apart(params):
    found = [one(block) for block in params["blocks"]]
    return tuple(
      cross.replace(
        keys=merge_heads(cross.keys), values=merge_heads(cross.values)
      )
      for cross in found
    )
  return jax.lax.map(one, params["blocks"])


def extend(
  model: Transformer,
  params: dict,
  x: jax.Array,
  cache: Cache,
  at: jax.Array,
  positions: jax.Array,
  valid: jax.Array,
  key_positions: jax.Array,
  cross: Any = None,
) -> tuple[jax.Array, Cache]:
  """The next tokens of every sequence.

  Args:
    model: the Transformer.
    params: of it.
    x: [batch, tokens, width], what comes next.
    cache: with what came before.
    at: int32 scalar, place of the first of them in the cache.
    positions: int [batch or 1, tokens] of them.
    valid: bool [batch or 1, length], the places of the cache that may be seen;
      a token sees those of them up to its own.
    key_positions: int [batch or 1, length] of the places of the cache.
    cross: of `crosses`; None without a condition.

  Returns:
    (float32 [batch, tokens, width] after the last norm, the cache).
  """
  module = Block(**model.block)
  variables = {"params": {k: v for k, v in params.items() if k != "blocks"}}
  count, length = x.shape[1], valid.shape[1]
  seen = jnp.arange(length) <= at + jnp.arange(count)[:, None]
  view = View(
    positions,
    valid[:, None, None, :] & seen,
    model.apply(variables, positions, key_positions, method="bias"),
  )
  x = model.apply(variables, x, positions, method="place")

  if _apart(params):
    keys, values = list(cache.keys), list(cache.values)
    for i, block in enumerate(params["blocks"]):

      def remember(k, v, i=i):
        keys[i] = _put(keys[i], merge_heads(k), (0, at, 0))
        values[i] = _put(values[i], merge_heads(v), (0, at, 0))
        return keys[i], values[i]

      x = module.apply(
        {"params": block},
        x,
        view,
        None if cross is None else cross[i],
        remember=remember,
      )
    cache = Cache(tuple(keys), tuple(values))
  else:

    def step(carry, inputs):
      x, cache = carry
      layer, block, cross = inputs

      def remember(k, v):
        nonlocal cache
        where = (layer, 0, at, 0, 0)
        cache = Cache(
          _put(cache.keys, k[None], where), _put(cache.values, v[None], where)
        )
        return cache.keys[layer], cache.values[layer]

      x = module.apply({"params": block}, x, view, cross, remember=remember)
      return (x, cache), None

    # The cache in the carry is written in place; as input and output of the
    # scan it would be there three times.
    inputs = (jnp.arange(model.layers), params["blocks"], cross)
    (x, cache), _ = jax.lax.scan(step, (x, cache), inputs)
  return model.apply(variables, x, method="finish"), cache


def _put(held: jax.Array, new: jax.Array, where: tuple) -> jax.Array:
  return jax.lax.dynamic_update_slice(held, new.astype(held.dtype), where)
