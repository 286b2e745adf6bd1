"""From logits to codes: guidance, what may be drawn, and the draw.

Every item of a batch draws with a key of its own, so that what is beside it
does not matter.
"""

import jax
import jax.numpy as jnp


def guide(
  logits: jax.Array,
  groups: int,
  guidance: jax.Array,
  text_guidance: jax.Array,
) -> jax.Array:
  """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598).

  Away from what the model says without the conditions, by `guidance` times what
  they change. In double guidance (audiocraft's, for MusicGen-Style) text counts
  once more: what it adds to the other conditions is first scaled by
  `text_guidance`.

  Args:
    logits: [groups * batch, ...]: of the items with all conditions; then, with
      3 groups, without text; then without any.
    groups: 1 (no guidance), 2 or 3.
    guidance: scalar; 1 changes nothing.
    text_guidance: scalar; only for 3 groups.

  Returns:
    [batch, ...].
  """
  if groups == 1:
    return logits
  parts = jnp.split(logits, groups)
  given, free = parts[0], parts[-1]
  if groups == 3:
    given = parts[1] + text_guidance * (given - parts[1])
  return free + guidance * (given - free)


def draw(
  logits: jax.Array,
  keys: jax.Array,
  *,
  temperature: jax.Array,
  top_p: jax.Array | None,
  top_k: int,
) -> jax.Array:
  """Draws one code for each codebook of each item.

  Args:
    logits: float32 [batch, codebooks, size].
    keys: random keys [batch].
    temperature: scalar; at 0 the likeliest code is taken.
    top_p: scalar: only the likeliest codes that together have this probability
      (Holtzman et al. 2020, arXiv 1904.09751), at the temperature; None: all.
    top_k: only so many of the likeliest codes; 0: all.
      With top_p too, both hold.

  Returns:
    int32 [batch, codebooks].
  """
  kept = None
  if 0 < top_k < logits.shape[-1]:
    # Only what may be drawn goes on: noise for all codes costs more than this.
    logits, kept = jax.lax.top_k(logits, top_k)
  if top_p is not None:
    share = jax.nn.softmax(logits / jnp.maximum(temperature, 1e-6))
    ordered = jnp.sort(share, descending=True) if kept is None else share
    before = jnp.cumsum(ordered, axis=-1) - ordered
    # The likeliest code has nothing before it: it always stays.
    inside = jnp.where((before < top_p) | (before == 0), ordered, jnp.inf)
    least = jnp.min(inside, axis=-1, keepdims=True)
    logits = jnp.where(share < least, -jnp.inf, logits)
  # The largest of logits plus Gumbel noise is a draw of the softmax. Noise is
  # scaled instead of logits, so that temperature 0 needs no case of its own.
  noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
  drawn = jnp.argmax(logits + temperature * noise, axis=-1)
  if kept is not None:
    drawn = jnp.take_along_axis(kept, drawn[..., None], axis=-1)[..., 0]
  return drawn.astype(jnp.int32)
