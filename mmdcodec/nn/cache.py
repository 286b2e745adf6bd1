"""Incremental decoding with a key-value cache.

`Transformer.__call__` computes a sequence at once; `extend` computes only the
next tokens, from the cached keys and values of the previous ones, with the same
`Block`. Parameters and cache come in one of two forms:

  stacked    as in training. The blocks run in a scan, so the program is
             small, which helps deep models on TPUs and GPUs.
  by block   a tuple of one tree per block, made once by `by_block`. A CPU
             would otherwise copy the weights of every block out of the stack
             for every token. For the same reason its cache merges batch and
             heads (`attention.merge_heads`).

The length of a cache is fixed when it is created.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp

from mmdcodec.nn.attention import merge_heads
from mmdcodec.nn.block import Block, Cross, View
from mmdcodec.nn.transformer import Transformer


@flax.struct.dataclass
class Cache:
  """Keys and values of the tokens so far.

  Attributes:
    keys: [layers, batch, length, kv_heads, head_dim], or a tuple of one array
      [batch * kv_heads, length, head_dim] per block.
    values: same form as keys.
  """

  keys: Any
  values: Any


def by_block(params: dict[str, Any], layers: int) -> dict[str, Any]:
  """Splits a Transformer's stacked parameters into one tree per block."""
  blocks = tuple(
    jax.tree.map(lambda a, i=i: a[i], params["blocks"]) for i in range(layers)
  )
  return {**params, "blocks": blocks}


def cast_kernels(params: dict[str, Any], dtype: Any) -> dict[str, Any]:
  """Converts the kernels, and nothing else, to the dtype of the computation."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: x.astype(dtype) if path[-1].key == "kernel" else x, params
  )


def _is_by_block(params: dict[str, Any]) -> bool:
  return isinstance(params["blocks"], tuple)


def empty(
  model: Transformer, params: dict[str, Any], batch: int, length: int
) -> Cache:
  """Returns an empty cache in the model's compute dtype.

  It holds 2 x layers x batch x length x width x kv_heads / heads numbers.

  Args:
    model: the Transformer.
    params: its parameters; their form determines that of the cache.
    batch: number of sequences.
    length: maximum number of tokens in the cache.
  """
  heads, dim = model.kv_heads, model.width // model.heads

  def zeros() -> Any:
    if _is_by_block(params):
      shape = (batch * heads, length, dim)
      return tuple(jnp.zeros(shape, model.dtype) for _ in range(model.layers))
    return jnp.zeros((model.layers, batch, length, heads, dim), model.dtype)

  return Cache(zeros(), zeros())


def cross_keys(
  model: Transformer, params: dict[str, Any], states: jax.Array, mask: jax.Array
) -> Any:
  """Keys and values of a condition for all blocks, computed once.

  Args:
    model: the Transformer.
    params: its parameters.
    states: [batch, length, any width].
    mask: bool [batch, length].

  Returns:
    A `Cross` of stacked arrays, or a tuple of one `Cross` per block.
  """

  def one(block: Any) -> Cross:
    return Block(**model.block).apply(  # type: ignore[return-value]
      {"params": block}, states, mask, method="cross_keys"
    )

  if not _is_by_block(params):
    return jax.lax.map(one, params["blocks"])
  found = [one(block) for block in params["blocks"]]
  return tuple(
    Cross(merge_heads(cross.keys), merge_heads(cross.values), cross.mask)
    for cross in found
  )


def extend(
  model: Transformer,
  params: dict[str, Any],
  x: jax.Array,
  cache: Cache,
  at: jax.Array,
  positions: jax.Array,
  valid: jax.Array,
  key_positions: jax.Array,
  cross: Any = None,
) -> tuple[jax.Array, Cache]:
  """Runs the Transformer over the next tokens of every sequence.

  Args:
    model: the Transformer.
    params: its parameters.
    x: [batch, tokens, width], the next tokens.
    cache: keys and values of the previous tokens.
    at: int32 scalar, slot of the first new token in the cache.
    positions: int [batch or 1, tokens], positions of the new tokens.
    valid: bool [batch or 1, length], slots that may be attended to. A token
      attends to valid slots up to its own.
    key_positions: int [batch or 1, length], position of each slot.
    cross: the result of `cross_keys`; None without a condition.

  Returns:
    (float32 [batch, tokens, width] after the final norm, the updated cache).
  """
  # Flax types the result of `apply` as a union.
  run: Any = model.apply
  run_block: Any = Block(**model.block).apply
  variables = {"params": {k: v for k, v in params.items() if k != "blocks"}}
  count, length = x.shape[1], valid.shape[1]
  causal = jnp.arange(length) <= at + jnp.arange(count)[:, None]
  view = View(
    positions,
    valid[:, None, None, :] & causal,
    run(variables, positions, key_positions, method="bias"),
  )
  x = run(variables, x, positions, method="place")

  if _is_by_block(params):
    keys, values = list(cache.keys), list(cache.values)
    for i, block in enumerate(params["blocks"]):

      def update_cache(
        k: jax.Array, v: jax.Array, i: int = i
      ) -> tuple[jax.Array, jax.Array]:
        keys[i] = _put(keys[i], merge_heads(k), (0, at, 0))
        values[i] = _put(values[i], merge_heads(v), (0, at, 0))
        return keys[i], values[i]

      x = run_block(
        {"params": block},
        x,
        view,
        None if cross is None else cross[i],
        update_cache=update_cache,
      )
    cache = Cache(tuple(keys), tuple(values))
  else:

    def step(
      carry: tuple[jax.Array, Cache], inputs: Any
    ) -> tuple[tuple[jax.Array, Cache], None]:
      x, cache = carry
      layer, block, cross = inputs

      def update_cache(
        k: jax.Array, v: jax.Array
      ) -> tuple[jax.Array, jax.Array]:
        nonlocal cache
        start = (layer, 0, at, 0, 0)
        cache = Cache(
          _put(cache.keys, k[None], start), _put(cache.values, v[None], start)
        )
        return cache.keys[layer], cache.values[layer]

      x = run_block(
        {"params": block}, x, view, cross, update_cache=update_cache
      )
      return (x, cache), None

    # In the carry, the cache is updated in place. As input and output of the
    # scan it would take three times the memory.
    inputs = (jnp.arange(model.layers), params["blocks"], cross)
    (x, cache), _ = jax.lax.scan(step, (x, cache), inputs)
  return run(variables, x, method="finish"), cache


def _put(cache: jax.Array, new: jax.Array, start: tuple) -> jax.Array:
  return jax.lax.dynamic_update_slice(cache, new.astype(cache.dtype), start)
