"""The contrastive loss over masked frames.

Wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477, 3.2), as used by w2v-BERT
(arXiv 2108.06209, 3.1): from the context of a masked frame, find its own
quantized target among those of other masked frames of the same clip. The papers
draw a sample of distractors; here all masked frames of the clip are, which
needs no random numbers and one small matrix per clip.
"""

import jax
import jax.numpy as jnp

from mmdcodec.nn.norms import unit_vectors


def contrastive(
  context: jax.Array,
  targets: jax.Array,
  mask: jax.Array,
  temperature: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes the loss of each masked frame.

  A masked frame with the same code as the target is a distractor like any
  other. Public code leaves such frames out, which rewards codes that are all
  the same: there would be nothing to tell them from, and the loss would be 0.

  Args:
    context: [batch, frames, dim].
    targets: [batch, frames, dim], the vectors of the codes.
    mask: bool [batch, frames], True for masked frames.
    temperature: divides the cosine similarities.

  Returns:
    (loss in nats, whether the target is nearer than all distractors, number of
    distractors), each [batch, frames] and 0 or False where not masked.
  """
  similar = jnp.einsum(
    "bid,bjd->bij",
    unit_vectors(context),
    unit_vectors(targets),
    precision=jax.lax.Precision.HIGHEST,
  )
  own = jnp.eye(mask.shape[1], dtype=bool)
  other = mask[:, None, :] & ~own
  logits = jnp.where(own | other, similar / temperature, -jnp.inf)
  of_own = jnp.diagonal(logits, axis1=1, axis2=2)
  nats = jax.nn.logsumexp(logits, axis=-1) - of_own
  best = jnp.max(jnp.where(other, logits, -jnp.inf), axis=-1)
  return (
    jnp.where(mask, nats, 0.0),
    (of_own > best) & mask,
    jnp.where(mask, other.sum(-1), 0),
  )
