"""Samples the codes of a step level by level with a depth transformer.

Every codebook is one token of the depth transformer, which has a cache of K
slots of its own for the step. Parameters come in either form of `nn.cache`;
`prepare` converts them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mmdcodec import platform
from mmdcodec.generation import sampling
from mmdcodec.models import token_lm
from mmdcodec.models.token_lm import TokenLM
from mmdcodec.nn import cache as cache_lib


def prepare(model: TokenLM, params: dict[str, Any]) -> dict[str, Any]:
  """Converts the depth transformer's parameters; see `decoding.prepare`.

  Args:
    model: the language model.
    params: the parameters of its depth transformer.

  Returns:
    The same; on CPUs by block, `projection` as `token_lm.flat_head` returns it,
    and `head` as one matrix [width, size] per codebook, because a part of a
    stack would be copied at every step.
  """
  own = cache_lib.cast_kernels(params["transformer"], model.dtype)
  projection, head = (
    params[name].astype(model.dtype) for name in ("projection", "head")
  )
  if platform.traced_for() == "cpu":
    own = cache_lib.by_block(own, model.make_depth().layers)
    projection, head = token_lm.flat_head(projection), tuple(head)
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
  depth, dtype = model.make_depth(), jnp.dtype(model.dtype)
  transformer, own = depth.make_transformer(), params["transformer"]
  embedding = jnp.asarray(params["embedding"])
  # The projections have the form of heads: one per codebook.
  inputs = token_lm.logits(x, params["projection"], model.codebooks, dtype)
  cache = cache_lib.empty(transformer, own, len(x), model.codebooks)
  places = jnp.arange(model.codebooks)[None]
  codes: list[jax.Array] = []
  for level in range(model.codebooks):
    y = inputs[:, :, level]
    if codes:
      vectors = embedding[level - 1, codes[-1]]
      y += jnp.tile(vectors, (groups, 1))[:, None]
    y, cache = cache_lib.extend(
      transformer,
      own,
      y,
      cache,
      jnp.int32(level),
      places[:, level : level + 1],
      jnp.ones(places.shape, bool),
      places,
    )
    logits = jnp.einsum(
      "btd,dv->btv",
      y.astype(dtype),
      params["head"][level].astype(dtype),
      preferred_element_type=jnp.float32,
    )
    sampled = sampling.sample(
      sampling.guide(logits, groups, guidance, double_guidance),
      jax.vmap(lambda key, level=level: jax.random.fold_in(key, level))(keys),
      **options,
    )[:, 0]
    known = given[:, level]
    codes.append(jnp.where(known < 0, sampled, known))
  return jnp.stack(codes, axis=-1)
