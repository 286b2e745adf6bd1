"""From logits to codes: guidance, which codes are allowed, and sampling.

Every item of a batch has its own random key, so its codes do not depend on the
other items.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
  """How codes are sampled.

  Attributes:
    temperature: 0 always takes the likeliest code.
    top_k: sample from so many of the likeliest codes; 0: from all.
    top_p: sample from the likeliest codes that together have this probability.
    guidance: how much the conditions count; 1: as learned.
    double_guidance: how much one of them counts beside the others; None:
      guidance is not double.
    doubled: name of the condition that double guidance is about.
  """

  temperature: float = 1.0
  top_k: int = 250
  top_p: float | None = None
  guidance: float = 3.0
  double_guidance: float | None = None
  doubled: str = "text"


def guide(
  logits: jax.Array,
  groups: int,
  guidance: jax.Array,
  double_guidance: jax.Array,
) -> jax.Array:
  """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598).

  The logits without conditions, plus `guidance` times what the conditions
  change. In double guidance (audiocraft's, for MusicGen-Style) one condition,
  usually the text, counts once more: what it adds to the other conditions is
  first scaled by `double_guidance`.

  Args:
    logits: [groups * batch, ...]: of the items with all conditions; then, with
      3 groups, without the one; then without any.
    groups: 1 (no guidance), 2 or 3.
    guidance: scalar; 1 changes nothing.
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
    temperature: scalar; at 0 the likeliest code is taken.
    top_p: scalar: only the likeliest codes that together have this probability
      (Holtzman et al. 2020, arXiv 1904.09751), at the temperature; None: all.
    top_k: only so many of the likeliest codes; 0: all. With top_p too, both
      hold.

  Returns:
    int32 [batch, codebooks].
  """
  kept = None
  if 0 < top_k < logits.shape[-1]:
    # Only these go on: noise for all codes costs more than finding them.
    logits, kept = jax.lax.top_k(logits, top_k)
  if top_p is not None:
    share = jax.nn.softmax(logits / jnp.maximum(temperature, 1e-6))
    ordered = jnp.sort(share, descending=True) if kept is None else share
    before = jnp.cumsum(ordered, axis=-1) - ordered
    # The likeliest code has nothing before it: it always stays.
    inside = jnp.where((before < top_p) | (before == 0), ordered, jnp.inf)
    least = jnp.min(inside, axis=-1, keepdims=True)
    logits = jnp.where(share < least, -jnp.inf, logits)
  # The argmax of logits plus Gumbel noise is a sample of the softmax. The noise
  # is scaled and not the logits, so that temperature 0 needs no special case.
  noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
  sampled = jnp.argmax(logits + temperature * noise, axis=-1)
  if kept is not None:
    sampled = jnp.take_along_axis(kept, sampled[..., None], axis=-1)[..., 0]
  return sampled.astype(jnp.int32)
