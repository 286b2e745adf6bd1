"""Samples the codes of a step level by level with a depth transformer.

Every codebook is one token of the depth transformer, which has a cache of K
slots of its own for the step. Parameters come in either form of `nn.cache`;
`prepare` converts them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mmdcodec.generation import sampling
from mmdcodec.models import token_lm
from mmdcodec.models.token_lm import TokenLM
from mmdcodec.nn import cache as cache_lib


def prepare(
  model: TokenLM, params: dict[str, Any], device: str | None = None
) -> dict[str, Any]:
  """Converts the depth transformer's parameters; see `decoding.prepare`.

  Args:
    model: the language model.
    params: the parameters of its depth transformer.
    device: as for `decoding.prepare`.

  Returns:
    The same; or by block, and `projection` as `token_lm.flat_head` returns it.
  """
  own = params["transformer"]
  projection, head = (
    jnp.asarray(params[name]).astype(model.dtype)
    for name in ("projection", "head")
  )
  if cache_lib.wants_blocks(device):
    own = cache_lib.by_block(own, model.make_depth().layers)
    projection = token_lm.flat_head(projection)
  own = cache_lib.cast_kernels(own, model.dtype)
  return {
    **params, "transformer": own, "projection": projection, "head": head,
  }  # fmt: skip


def sample(
  model: TokenLM,
  params: dict[str, Any],
  x: jax.Array,
  given: jax.Array,
  keys: jax.Array,
  *,
  groups: int,
  guidance: jax.Array,
  double_guidance: jax.Array,
  **options: Any,
) -> jax.Array:
  """Samples the unknown codes of a step.

  Args:
    model: the language model, which has a depth transformer.
    params: parameters of that, in either form.
    x: float32 [groups * batch, 1, width], output of the large Transformer.
    given: int32 [batch, codebooks], the known tokens; -1 for those to sample.
      A code depends on those of the codebooks before it, known or sampled.
    keys: random keys [batch] of this step.
    groups: groups of items for guidance; see `sampling.guide`.
    guidance: as for `sampling.guide`.
    double_guidance: as for `sampling.guide`.
    **options: temperature, top_p and top_k of `sampling.sample`.

  Returns:
    int32 [batch, codebooks].
  """
  transformer, own = (
    model.make_depth().make_transformer(),
    params["transformer"],
  )
  dtype, count = jnp.dtype(model.dtype), model.codebooks
  embedding = jnp.asarray(params["embedding"])
  # The projections have the form of heads: one per codebook.
  inputs = token_lm.logits(x, params["projection"], count, dtype)
  places = jnp.arange(count)[None]

  def one(carry: tuple[jax.Array, Any], level: Any) -> tuple[Any, jax.Array]:
    (before, cache), (at, y, head, known) = carry, level
    y, cache = cache_lib.extend(
      transformer,
      own,
      y + jnp.tile(before, (groups, 1))[:, None],
      cache,
      at,
      at[None, None],
      jnp.ones(places.shape, bool),
      places,
    )
    logits = jnp.einsum(
      "btd,dv->btv",
      y.astype(dtype),
      head.astype(dtype),
      preferred_element_type=jnp.float32,
    )
    sampled = sampling.sample(
      sampling.guide(logits, groups, guidance, double_guidance),
      jax.vmap(lambda key: jax.random.fold_in(key, at))(keys),
      **options,
    )[:, 0]
    code = jnp.where(known < 0, sampled, known)
    # Nothing reads that of the last code.
    after = embedding[jnp.minimum(at, count - 2), code]
    return (after, cache), code

  nothing = jnp.zeros((len(given), embedding.shape[-1]), jnp.float32)
  cache = cache_lib.empty(transformer, own, len(x), count)
  # A loop: the program of the blocks is there once, not for every codebook.
  levels = (
    jnp.arange(count),
    jnp.moveaxis(inputs, 2, 0),
    params["head"],
    given.T,
  )
  _, codes = jax.lax.scan(one, (nothing, cache), levels)
  return codes.T
