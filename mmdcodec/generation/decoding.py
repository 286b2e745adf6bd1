"""The decoding loop: samples the steps of a pattern in order, on the device.

`prefill` processes known input (a prefix, the codes of an audio prompt), and
`advance` samples up to any step. Each is compiled once per request size.
Several calls of `advance` sample the same codes as one, so streaming only means
calling it more often.

  request = DecodeRequest(...)
  state = prefill(model, params, request, start, count=count, groups=groups)
  state = advance(model, params, request, state, until, groups=groups, top_k=0)

If attention has a window, neither the cache nor the time of a step grow with
the length of the music.

As in gemma's sampler, a small struct holds the complete state. `prefill`
creates the cache, which is donated to `advance` and returned by it.
"""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp

from mmdcodec.generation import depth_sampling, sampling
from mmdcodec.models import token_lm
from mmdcodec.models.conditioning import EncodedConditions
from mmdcodec.models.token_lm import TokenLM
from mmdcodec.nn import cache as cache_lib
from mmdcodec.nn.transformer import Transformer
from mmdcodec.parallel import rules

# Parameters of the depth transformer.
DEPTH = "depth_transformer"


@flax.struct.dataclass
class DecodeRequest:
  """The constant inputs while a batch is decoded.

  With guidance, the items appear `groups` times, each time with fewer
  conditions; see `sampling.guide`.

  Attributes:
    encoded: conditions of groups * batch items.
    frames: int32 [steps], the frame of each step that is predicted; see
      `Pattern.frame_of_step`.
    given: int32 [batch, steps + 1, codebooks], the known tokens: those of a
      prompt, and the special token where the pattern has no code. -1 marks
      tokens to sample.
    keys: random keys [batch].
    temperature: scalar; this and the next three are arguments of
      `sampling.sample` and `sampling.guide`.
    top_p: scalar or None.
    guidance: scalar.
    double_guidance: scalar.
  """

  encoded: EncodedConditions
  frames: jax.Array
  given: jax.Array
  keys: jax.Array
  temperature: jax.Array
  top_p: Any
  guidance: jax.Array
  double_guidance: jax.Array


@flax.struct.dataclass
class DecodeState:
  """The progress of a batch.

  Attributes:
    at: int32 scalar, the step to sample next. The cache holds the steps before
      `at` - 1.
    tokens: int32 [batch, steps + 1, codebooks]; valid before `at`.
    cache: cache of groups * batch items: the prefix, then the steps.
    cross: keys and values of the conditions for cross-attention, or None.
  """

  at: jax.Array
  tokens: jax.Array
  cache: cache_lib.Cache
  cross: Any


def prepare(
  model: TokenLM, params: dict[str, Any], device: str | None = None
) -> dict[str, Any]:
  """Converts parameters to the fastest form on a device; see `nn.cache`.

  Kernels get the dtype of the computation; otherwise they would be converted
  for every token. That holds for bfloat16 on CPUs too, which halves the memory
  and makes a step a fifth to a third slower than float32 (`docs/RESULTS.md`).
  All forms run on all devices, with the same results.

  Args:
    model: the language model.
    params: its parameters, as in training; of a mesh, within it.
    device: "cpu", "gpu" or "tpu"; None means that of `platform.traced_for`.
  """
  own, apart = params["transformer"], cache_lib.wants_blocks(device)
  # Parameters on the host go to the device block by block, as they are used.
  if apart:
    own = cache_lib.by_block(own, model.layers)
  own = cache_lib.cast_kernels(own, model.dtype)
  params = {**params, "transformer": own}
  if model.depth is not None:
    depth = depth_sampling.prepare(model, params[DEPTH], device)
    return {**params, DEPTH: depth}
  head = jnp.asarray(params["head"]).astype(model.dtype)
  if apart:
    head = token_lm.flat_head(head)
  return {**params, "head": head}


def _transformer(model: TokenLM) -> Transformer:
  return Transformer(**model.transformer_fields())


def _places(
  request: DecodeRequest, steps: int
) -> tuple[jax.Array, jax.Array, int]:
  """Locates the prefix and the steps in the cache.

  Returns:
    valid bool and positions int32, each [batch or 1, prefix + steps], and the
    length of the prefix.
  """
  mask = request.encoded.prefix_mask
  if mask is None:
    return jnp.ones((1, steps), bool), jnp.arange(steps)[None], 0
  valid = jnp.pad(mask, ((0, 0), (0, steps)), constant_values=True)
  positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
  return valid, positions, mask.shape[1]


def _embed(
  params: dict[str, Any],
  request: DecodeRequest,
  tokens: jax.Array,
  start: int | jax.Array,
  groups: int,
) -> jax.Array:
  """Vectors of the steps from `start` on, with the conditions added to them.

  Args:
    params: as for `prefill`.
    request: the request.
    tokens: int [batch, steps, codebooks].
    start: int32 scalar.
    groups: see `DecodeRequest`.

  Returns:
    float32 [groups * batch, steps, width].
  """
  x = token_lm.embed(jnp.tile(tokens, (groups, 1, 1)), params["embedding"])
  if request.encoded.added is None:
    return x
  # A block of a prompt may reach beyond the last step.
  steps = start + jnp.arange(x.shape[1])
  return x + request.encoded.at(jnp.take(request.frames, steps, mode="clip"))


@functools.partial(jax.jit, static_argnames=("model", "count", "groups"))
def prefill(
  model: TokenLM,
  params: dict[str, Any],
  request: DecodeRequest,
  start: int | jax.Array,
  *,
  count: int,
  groups: int,
) -> DecodeState:
  """Returns the state before the first step to sample.

  Args:
    model: the language model.
    params: its parameters, in either form of `nn.cache`.
    request: the request.
    start: int32 scalar, at least 1: the first step with an unknown token.
    count: number of steps to put into the cache, at least start - 1. `advance`
      overwrites those from `start` - 1 on before later steps attend to them.
    groups: see `DecodeRequest`.
  """
  batch, steps = request.given.shape[:2]
  model_params = params["transformer"]
  transformer = _transformer(model)
  encoded = request.encoded
  valid, positions, before = _places(request, steps - 1)
  cache = cache_lib.empty(
    transformer, model_params, groups * batch, valid.shape[1], before
  )
  cross = None
  if encoded.states is not None:
    cross = cache_lib.cross_keys(
      transformer, model_params, encoded.states, encoded.states_mask
    )
  tokens = jnp.where(request.given < 0, model.special, request.given)

  def put(
    x: jax.Array, at: Any, cache: cache_lib.Cache, room: int = 0
  ) -> cache_lib.Cache:
    """Puts vectors into the cache, the last `room` of which may be padding."""
    there, places = (
      jnp.pad(a, ((0, 0), (0, room)), mode="edge") for a in (valid, positions)
    )
    here = jax.lax.dynamic_slice_in_dim(places, at, x.shape[1], axis=1)
    stop = jnp.asarray(before + start - 1)
    _, cache = cache_lib.extend(
      transformer, model_params, x, cache, jnp.int32(at), here, there, places,
      cross, stop,
    )  # fmt: skip
    return cache

  prefix = encoded.prefix
  if not model.window:
    x = _embed(params, request, tokens[:, :count], 0, groups)
    x = x if prefix is None else jnp.concatenate([prefix, x], axis=1)
    cache = put(x, 0, cache) if x.shape[1] else cache
  else:
    # In blocks of the window at most: the cache holds no more, and attention
    # among all tokens of a long prompt takes its length squared.
    size = min(count, model.window)
    known = jnp.pad(tokens[:, :count], ((0, 0), (0, size), (0, 0)))
    if prefix is not None:
      cache = put(prefix, 0, cache)
    if count:

      def put_block(i: jax.Array, cache: cache_lib.Cache) -> cache_lib.Cache:
        part = jax.lax.dynamic_slice_in_dim(known, i * size, size, axis=1)
        x = _embed(params, request, part, i * size, groups)
        return put(x, before + i * size, cache, room=size)

      blocks = (jnp.asarray(start) - 2) // size + 1
      cache = jax.lax.fori_loop(0, blocks, put_block, cache)
  return _spread(
    DecodeState(jnp.asarray(start, jnp.int32), tokens, cache, cross)
  )


@functools.partial(
  jax.jit,
  static_argnames=("model", "groups", "top_k"),
  donate_argnames=("state",),
)
def advance(
  model: TokenLM,
  params: dict[str, Any],
  request: DecodeRequest,
  state: DecodeState,
  until: int | jax.Array,
  *,
  groups: int,
  top_k: int,
) -> DecodeState:
  """Samples the steps before `until`; the state passed in is consumed.

  Args:
    model: the language model.
    params: as for `prefill`.
    request: as for `prefill`.
    state: state to continue from.
    until: int32 scalar, at most steps + 1.
    groups: see `DecodeRequest`.
    top_k: see `sampling.sample`.
  """
  transformer, model_params = _transformer(model), params["transformer"]
  valid, positions, before = _places(request, state.tokens.shape[1] - 1)

  def step(state: DecodeState) -> DecodeState:
    last = jax.lax.dynamic_slice_in_dim(state.tokens, state.at - 1, 1, axis=1)
    place = before + state.at - 1
    x, cache = cache_lib.extend(
      transformer,
      model_params,
      _embed(params, request, last, state.at - 1, groups),
      state.cache,
      place,
      jax.lax.dynamic_slice_in_dim(positions, place, 1, axis=1),
      valid,
      positions,
      state.cross,
    )
    # Keys depend on the step, not on a chain of splits, so that one call and
    # several calls sample the same codes.
    keys = jax.vmap(lambda key: jax.random.fold_in(key, state.at))(request.keys)
    given = jax.lax.dynamic_index_in_dim(request.given, state.at, 1, False)
    weights = dict(
      guidance=request.guidance, double_guidance=request.double_guidance
    )
    options: dict[str, Any] = dict(
      temperature=request.temperature, top_p=request.top_p, top_k=top_k
    )
    if model.depth is None:
      logits = token_lm.logits(
        x, params["head"], model.codebooks, jnp.dtype(model.dtype)
      )[:, 0]
      logits = sampling.guide(logits, groups, **weights)
      sampled = sampling.sample(logits, keys, **options)
      new = jnp.where(given < 0, sampled, given)
    else:
      new = depth_sampling.sample(
        model, params[DEPTH], x, given, keys, groups=groups, **weights,
        **options,
      )  # fmt: skip
    tokens = jax.lax.dynamic_update_slice_in_dim(
      state.tokens, new[:, None], state.at, axis=1
    )
    return DecodeState(state.at + 1, tokens, cache, state.cross)

  return jax.lax.while_loop(
    lambda state: state.at < until, step, _spread(state)
  )


def _spread(state: DecodeState) -> DecodeState:
  """Shards items and heads over the devices of a mesh, if there is one."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: rules.constrain(x, *_axes(path, x)), state
  )


def shardings(state: DecodeState, mesh: jax.sharding.Mesh) -> DecodeState:
  """Shardings of a state or of its shapes on a mesh."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: jax.sharding.NamedSharding(
      mesh, rules.activation_spec(x.shape, mesh, *_axes(path, x))
    ),
    state,
  )


def _axes(path: tuple[Any, ...], x: jax.Array) -> tuple[str | None, ...]:
  """Arguments of `rules.constrain` for an array of the state."""
  if x.ndim < 4 or "tokens" in rules.path_name(path):
    # Merged heads (by block) are divided by the batch, never over `model`.
    return ("batch", *(None,) * (x.ndim - 1))[: x.ndim]
  # [..., batch, length, heads, head_dim], stacked or not.
  return (*(None,) * (x.ndim - 4), "batch", None, "model", None)
