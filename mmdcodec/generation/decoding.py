"""The decoding loop: steps of a pattern, one after the other, on the device.

`prefill` takes in what is known (a prefix, the codes of an audio prompt),
`advance` draws steps up to any step. Both are jitted once for a size of
request; what is made in one call of `advance` is what is made in many, so
streaming is a matter of how often one looks.

  request = Request(...)
  state = prefill(model, params, request, tokens=..., length=...)
  state = advance(model, params, request, state, until, ...)

As in gemma's sampler the state is a small struct that says all, and the cache
is created inside of the first program, donated to and returned by the second.
"""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp

from mmdcodec import platform
from mmdcodec.generation import sampling
from mmdcodec.models import token_lm
from mmdcodec.models.conditioning import Conditions
from mmdcodec.models.token_lm import TokenLM
from mmdcodec.nn import cache as cache_lib
from mmdcodec.nn.transformer import Transformer
from mmdcodec.parallel import rules


@flax.struct.dataclass
class Request:
  """What does not change while a batch is decoded.

  Items stand `groups` times one after the other where guidance needs them with
  other conditions, see `sampling.guide`.

  Attributes:
    conditions: of groups * batch items.
    given: int32 [batch, steps + 1, codebooks], tokens that are known: those of
      a prompt, and the special one where the pattern has no code; -1 where one
      is to be drawn.
    keys: random keys [batch].
    temperature: scalar, see `sampling.draw`.
    top_p: scalar or None, see there.
    guidance: scalar, see `sampling.guide`.
    text_guidance: scalar, see there.
  """

  conditions: Conditions
  given: jax.Array
  keys: jax.Array
  temperature: jax.Array
  top_p: Any
  guidance: jax.Array
  text_guidance: jax.Array


@flax.struct.dataclass
class State:
  """How far a batch has come.

  Attributes:
    at: int32 scalar, the step to be drawn next. Those before the last are in
      the cache.
    tokens: int32 [batch, steps + 1, codebooks]; valid before `at`.
    cache: of groups * batch items: the prefix, then steps.
    cross: what the blocks need of the conditions.
  """

  at: jax.Array
  tokens: jax.Array
  cache: cache_lib.Cache
  cross: Any


def prepare(model: TokenLM, params: dict) -> dict:
  """Parameters as the loop is fastest with on this device; see `nn.cache`.

  Kernels have the type of the computation, which they would be turned into for
  every token otherwise; what comes out is the same.
  """
  low = lambda path, x: x.astype(model.dtype) if path[-1].key == "kernel" else x
  own = jax.tree_util.tree_map_with_path(low, params["transformer"])
  head = params["head"].astype(model.dtype)
  if platform.traced_for() == "cpu":
    own = cache_lib.by_block(own, model.layers)
    head = token_lm.flat_head(head)
  return {**params, "head": head, "transformer": own}


def _transformer(model: TokenLM) -> Transformer:
  return Transformer(**model.transformer_fields())


def _places(request: Request, steps: int):
  """Where prefix and steps stand in the cache.

  Returns:
    (valid bool, positions int32), each [batch or 1, prefix + steps], and the
    length of the prefix.
  """
  mask = request.conditions.prefix_mask
  if mask is None:
    return jnp.ones((1, steps), bool), jnp.arange(steps)[None], 0
  valid = jnp.pad(mask, ((0, 0), (0, steps)), constant_values=True)
  positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
  return valid, positions, mask.shape[1]


@functools.partial(jax.jit, static_argnames=("model", "count", "groups"))
def prefill(
  model: TokenLM, params: dict, request: Request, start, *, count, groups
) -> State:
  """The state before the first step that is to be drawn.

  Args:
    model: the language model.
    params: of it, in either form of `nn.cache`.
    request: what is asked for.
    start: int32 scalar, at least 1: the first step that is not wholly known.
    count: so many steps are put in the cache at once, at least start - 1. What
      of them is not known yet is not seen, and comes again.
    groups: see `Request`.
  """
  batch, steps = request.given.shape[:2]
  model_params = params["transformer"]
  transformer = _transformer(model)
  conditions = request.conditions
  valid, positions, before = _places(request, steps - 1)
  cache = cache_lib.empty(
    transformer, model_params, groups * batch, valid.shape[1]
  )
  cross = None
  if conditions.states is not None:
    cross = cache_lib.cross_keys(
      transformer, model_params, conditions.states, conditions.states_mask
    )
  tokens = jnp.where(request.given < 0, model.special, request.given)
  x = token_lm.embed(
    jnp.tile(tokens[:, :count], (groups, 1, 1)), params["embedding"]
  )
  if conditions.prefix is not None:
    x = jnp.concatenate([conditions.prefix, x], axis=1)
  if x.shape[1]:
    _, cache = cache_lib.extend(
      transformer,
      model_params,
      x,
      cache,
      jnp.int32(0),
      positions[:, : before + count],
      valid,
      positions,
      cross,
    )
  return _spread(State(jnp.asarray(start, jnp.int32), tokens, cache, cross))


@functools.partial(
  jax.jit,
  static_argnames=("model", "groups", "top_k"),
  donate_argnames=("state",),
)
def advance(
  model: TokenLM,
  params: dict,
  request: Request,
  state: State,
  until: jax.Array,
  *,
  groups: int,
  top_k: int,
) -> State:
  """Draws the steps before `until`; the state passed in is consumed.

  Args:
    model: the language model.
    params: of it, as for `prefill`.
    request: as for `prefill`.
    state: where to go on.
    until: int32 scalar, at most steps + 1.
    groups: see `Request`.
    top_k: see `sampling.draw`.
  """
  transformer, model_params = _transformer(model), params["transformer"]
  valid, positions, before = _places(request, state.tokens.shape[1] - 1)

  def step(state: State) -> State:
    last = jax.lax.dynamic_slice_in_dim(state.tokens, state.at - 1, 1, axis=1)
    place = before + state.at - 1
    x, cache = cache_lib.extend(
      transformer,
      model_params,
      token_lm.embed(jnp.tile(last, (groups, 1, 1)), params["embedding"]),
      state.cache,
      place,
      jax.lax.dynamic_slice_in_dim(positions, place, 1, axis=1),
      valid,
      positions,
      state.cross,
    )
    logits = token_lm.logits(
      x, params["head"], model.codebooks, jnp.dtype(model.dtype)
    )[:, 0]
    logits = sampling.guide(
      logits, groups, request.guidance, request.text_guidance
    )
    # From the step and not from a chain of splits, so that a call that stops
    # and one that goes on draw the same.
    keys = jax.vmap(lambda key: jax.random.fold_in(key, state.at))(request.keys)
    drawn = sampling.draw(
      logits,
      keys,
      temperature=request.temperature,
      top_p=request.top_p,
      top_k=top_k,
    )
    given = jax.lax.dynamic_index_in_dim(request.given, state.at, 1, False)
    new = jnp.where(given < 0, drawn, given)
    tokens = jax.lax.dynamic_update_slice_in_dim(
      state.tokens, new[:, None], state.at, axis=1
    )
    return State(state.at + 1, tokens, cache, state.cross)

  return jax.lax.while_loop(
    lambda state: state.at < until, step, _spread(state)
  )


def _spread(state: State) -> State:
  """Items over the devices of a mesh, if there is one, and heads too."""

  def one(path, x):
    if x.ndim == 0:
      return x
    # Merged heads, on CPUs alone, are cut with the batch, never over `model`.
    axes = ["batch", *(None,) * (x.ndim - 1)]
    if "tokens" not in rules.path_name(path) and x.ndim >= 4:
      # [..., batch, length, heads, head_dim], stacked or not.
      axes = [*(None,) * (x.ndim - 4), "batch", None, "model", None]
    return rules.constrain(x, *axes)

  return jax.tree_util.tree_map_with_path(one, state)
