"""Incremental decoding with a key-value cache.

`Transformer.__call__` computes a sequence at once; `extend` computes only the
next tokens, from the cached keys and values of the previous ones, with the same
`Block`. Parameters and cache come in one of two forms; all devices run both:

  stacked    as in training. The blocks run in a scan, so the program is small.
             TPUs read the weights of a block where they are in the stack.
  by block   a tuple of one tree per block, made once by `by_block`, for CPUs
             and GPUs. They would copy the weights of every block out of the
             stack for every token: read, written and read again. For the same
             reason the cache merges batch and heads (`attention.merge_heads`).
             Kernels with the same input are one.

On a GPU, a stacked step of 24 layers took seven times as long as reading its
weights. By block, a step has no copies, fewer products and no loop over layers
inside, so that XLA can launch it as a few CUDA graphs. No GPU has timed it yet.
For 24 layers its program takes three times as long to compile and five times as
long to trace (on a CPU: 4 and 0.9 s).

The length of a cache is fixed when it is created. If attention has a window, it
is bounded by that; see `mmdcodec.nn.ring`.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp

from mmdcodec import platform
from mmdcodec.nn import ring
from mmdcodec.nn.attention import merge_heads
from mmdcodec.nn.block import Block, Cross, View
from mmdcodec.nn.transformer import Transformer
from mmdcodec.nn.turned import turn


@flax.struct.dataclass
class Cache:
  """Keys and values of the tokens so far.

  Attributes:
    keys: [layers, batch, length, kv_heads, head_dim], or a tuple of one array
      [batch * kv_heads, length, head_dim] per block.
    values: same form as keys.
    before: number of first tokens that the window does not hide.
  """

  keys: Any
  values: Any
  before: int = flax.struct.field(pytree_node=False, default=0)


def wants_blocks(device: str | None = None) -> bool:
  """Whether to decode by block; otherwise parameters stay stacked.

  By block, heads are merged with the batch, and joined kernels hold queries
  beside keys, so several GPUs could not divide heads and hidden units. CPUs
  decode by block on a mesh, too; such meshes are there for tests.

  Args:
    device: "cpu", "gpu" or "tpu"; None means that of `platform.traced_for`.
  """
  device = device or platform.traced_for()
  several = jax.sharding.get_abstract_mesh().size > 1
  return device == "cpu" or (device == "gpu" and not several)


def by_block(params: dict[str, Any], layers: int) -> dict[str, Any]:
  """Splits a Transformer's stacked parameters into one tree per block.

  All kernels become [outputs, inputs], see `nn.turned`, and those with the same
  input one, see `Block`.
  """

  def one(i: int) -> dict[str, Any]:
    def leaf(path: Any, stacked: jax.Array) -> jax.Array:
      if path[-1].key != "kernel":
        return stacked[i]
      # Only that of attention's `out` has two axes of inputs.
      return turn(stacked[i], 2 if path[-2].key == "out" else 1)

    block = jax.tree_util.tree_map_with_path(leaf, params["blocks"])
    join = lambda tree, *names: {
      "kernel": jnp.concatenate([tree.pop(name)["kernel"] for name in names])
    }
    own = block["attention"]
    own["query_key_value"] = join(own, "query", "key", "value")
    if "gate" in block:
      block["gate_and_inner"] = join(block, "gate", "inner")
    return block

  return {**params, "blocks": tuple(one(i) for i in range(layers))}


def cast_kernels(params: dict[str, Any], dtype: Any) -> dict[str, Any]:
  """Converts the kernels, and nothing else, to the dtype of the computation."""

  def cast(path: Any, x: jax.Array) -> jax.Array:
    # On the device, which converts faster than NumPy.
    return jnp.asarray(x).astype(dtype) if path[-1].key == "kernel" else x

  return jax.tree_util.tree_map_with_path(cast, params)


def _is_by_block(params: dict[str, Any]) -> bool:
  return isinstance(params["blocks"], tuple)


def empty(
  model: Transformer,
  params: dict[str, Any],
  batch: int,
  length: int,
  before: int = 0,
) -> Cache:
  """Returns an empty cache in the model's compute dtype.

  It holds 2 x layers x batch x length x width x kv_heads / heads numbers. With
  a window, length is `before` and the window at most; sinks come on top.

  Args:
    model: the Transformer.
    params: its parameters; their form determines that of the cache.
    batch: number of sequences.
    length: maximum number of tokens.
    before: number of first tokens that the window does not hide.
  """
  heads, dim = model.kv_heads, model.width // model.heads
  size = ring.slots(model, length, before)

  def one(block: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    zeros = jnp.zeros((batch, size, heads, dim), model.dtype)
    if not model.sinks:
      return zeros, zeros
    room = zeros[:, model.sinks :]
    return Block(**model.block).apply(  # type: ignore[return-value]
      {"params": block}, room, room, method="with_sinks"
    )

  if _is_by_block(params):
    found = [jax.tree.map(merge_heads, one(each)) for each in params["blocks"]]
    keys, values = zip(*found, strict=True)
    return Cache(keys, values, before)
  keys, values = jax.vmap(one)(params["blocks"])
  return Cache(keys, values, before)


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
  # Flax types the result of `apply` as a union.
  run: Any = Block(**model.block, turned=_is_by_block(params)).apply

  def one(block: Any) -> Cross:
    return run({"params": block}, states, mask, method="cross_keys")

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
  stop: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
  """Runs the Transformer over the next tokens of every sequence.

  Args:
    model: the Transformer.
    params: its parameters.
    x: [batch, tokens, width], the next tokens.
    cache: keys and values of the previous tokens.
    at: int32 scalar, index of the first new token.
    positions: int [batch or 1, tokens], positions of the new tokens.
    valid: bool [batch or 1, length], tokens that may be attended to. A token
      attends to valid ones up to itself.
    key_positions: int [batch or 1, length], position of each token.
    cross: the result of `cross_keys`; None without a condition.
    stop: tokens from this one on are padding, which may be forgotten; None
      keeps all.

  Returns:
    (float32 [batch, tokens, width] after the final norm, the updated cache).
  """
  # Flax types the result of `apply` as a union.
  run: Any = model.apply
  run_block: Any = Block(**model.block, turned=_is_by_block(params)).apply
  variables = {"params": {k: v for k, v in params.items() if k != "blocks"}}
  size = cache.keys[0].shape[1]
  plan = ring.plan(model, size, cache.before, at, x.shape[1], valid, stop)
  if plan.tokens is not None:
    key_positions = jnp.take(key_positions, plan.tokens, axis=1)
  bias = run(variables, positions, key_positions, method="bias")
  if bias is not None and model.sinks:
    bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (model.sinks, 0)))
  view = View(positions, plan.mask, bias)
  x = run(variables, x, positions, method="place")

  if _is_by_block(params):
    keys, values = list(cache.keys), list(cache.values)
    for i, block in enumerate(params["blocks"]):

      def update_cache(
        k: jax.Array, v: jax.Array, i: int = i
      ) -> tuple[jax.Array, jax.Array]:
        k, v = merge_heads(k), merge_heads(v)
        if plan.sources is not None:
          k, keys[i] = ring.store(keys[i], k, plan.sources)
          v, values[i] = ring.store(values[i], v, plan.sources)
          return k, v
        keys[i] = _put(keys[i], k, (0, plan.slot, 0))
        values[i] = _put(values[i], v, (0, plan.slot, 0))
        return keys[i], values[i]

      x = run_block(
        {"params": block},
        x,
        view,
        None if cross is None else cross[i],
        update_cache=update_cache,
      )
    cache = Cache(tuple(keys), tuple(values), cache.before)
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
        start, found = (layer, 0, plan.slot, 0, 0), None
        if plan.sources is not None:
          start = (layer, 0, 0, 0, 0)
          seen_k, k = ring.store(cache.keys[layer], k, plan.sources)
          seen_v, v = ring.store(cache.values[layer], v, plan.sources)
          found = seen_k, seen_v
        cache = Cache(
          _put(cache.keys, k[None], start),
          _put(cache.values, v[None], start),
          cache.before,
        )
        return found or (cache.keys[layer], cache.values[layer])

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
  # Of one type, also in 64-bit mode.
  start = tuple(jnp.asarray(i, jnp.int32) for i in start)
  return jax.lax.dynamic_update_slice(cache, new.astype(cache.dtype), start)
