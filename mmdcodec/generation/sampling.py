"""Samples codes from logits: guidance, truncation (top k, top p), sampling.

Every item of a batch has its own random key, so its codes do not depend on the
other items.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
  """Options for sampling codes.

  Attributes:
    temperature: sampling temperature; 0 always takes the likeliest code.
    top_k: sample from this many of the likeliest codes; 0: from all.
    top_p: sample from the likeliest codes with this total probability.
    guidance: weight of the conditions; 1 is plain sampling.
    double_guidance: weight of one condition relative to the others; None turns
      double guidance off.
    doubled: name of the condition with that weight.
    removed: names of the conditions that guidance weighs: it compares with the
      model without them. None: all.
  """

  temperature: float = 1.0
  top_k: int = 250
  top_p: float | None = None
  guidance: float = 3.0
  double_guidance: float | None = None
  doubled: str = "text"
  removed: tuple[str, ...] | None = None


def guide(
  logits: jax.Array,
  groups: int,
  guidance: jax.Array,
  double_guidance: jax.Array,
) -> jax.Array:
  """Applies classifier-free guidance (Ho and Salimans, arXiv 2207.12598).

  The result is the logits without conditions plus `guidance` times the change
  that the conditions make. In double guidance (audiocraft's, for
  MusicGen-Style), the change that one condition, usually the text, adds to the
  others is first scaled by `double_guidance`.

  Args:
    logits: [groups * batch, ...], for the items with all conditions; then, with
      3 groups, without the one; then without any.
    groups: 1 (no guidance), 2 or 3.
    guidance: scalar; 1 has no effect.
    double_guidance: scalar; only for 3 groups.

  Returns:
    [batch, ...].
  """
  if groups == 1:
    return logits
  parts = jnp.split(logits, groups)
  given, free = parts[0], parts[-1]
  if groups == 3:
    given = parts[1] + double_guidance * (given - parts[1])
  return free + guidance * (given - free)


def sample(
  logits: jax.Array,
  keys: jax.Array,
  *,
  temperature: jax.Array,
  top_p: jax.Array | None,
  top_k: int,
) -> jax.Array:
  """Samples one code for each codebook of each item.

  Args:
    logits: float32 [batch, codebooks, size].
    keys: random keys [batch].
    temperature: scalar; 0 takes the likeliest code.
    top_p: scalar; sample from the likeliest codes with this total probability
      at this temperature (Holtzman et al. 2020, arXiv 1904.09751); None: all.
    top_k: sample from this many of the likeliest codes; 0: all. Can be combined
      with top_p.

  Returns:
    int32 [batch, codebooks].
  """
  kept = None
  if 0 < top_k < logits.shape[-1]:
    # Only these are sampled: noise for all codes costs more than top_k.
    logits, kept = jax.lax.top_k(logits, top_k)
  if top_p is not None:
    share = jax.nn.softmax(logits / jnp.maximum(temperature, 1e-6))
    ordered = jnp.sort(share, descending=True) if kept is None else share
    before = jnp.cumsum(ordered, axis=-1) - ordered
    # The likeliest code has nothing before it, so it is always kept.
    inside = jnp.where((before < top_p) | (before == 0), ordered, jnp.inf)
    least = jnp.min(inside, axis=-1, keepdims=True)
    logits = jnp.where(share < least, -jnp.inf, logits)
  # The argmax of logits plus Gumbel noise is a sample of the softmax. Scaling
  # the noise instead of the logits makes temperature 0 no special case.
  noise = jax.vmap(
    lambda key: jax.random.gumbel(key, logits.shape[1:], jnp.float32)
  )(keys)
  sampled = jnp.argmax(logits + temperature * noise, axis=-1)
  if kept is not None:
    sampled = jnp.take_along_axis(kept, sampled[..., None], axis=-1)[..., 0]
  return sampled.astype(jnp.int32)
