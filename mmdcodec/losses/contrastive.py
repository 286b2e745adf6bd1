"""Contrastive losses of pairs of audio and text embeddings.

Row i of the audio and row i of the text belong together; every other row of the
batch is a negative. With s_ij = scale * <audio_i, text_j>, over n rows:

  softmax    mean_i of (-s_ii + log sum_j e^s_ij) and of the same in the other
             direction (CLIP, Radford et al. 2021, arXiv 2103.00020, figure 3).
  decoupled  the same without j = i in the sums, so that pairs that are learned
             already do not damp the gradient (Yeh et al. 2021, arXiv
             2110.06848). MuLan (arXiv 2208.12415) leaves j = i out too; the
             form here, a mean of two directions, is that of the open
             implementations.
  sigmoid    -1/n sum_ij log sigmoid(+-(s_ij + bias)), plus for i = j (SigLIP,
             Zhai et al. 2023, arXiv 2303.15343, algorithm 1).

Sums are log-sum-exp in float32, so no temperature overflows. In `jax.jit` with
a sharded batch the rows are those of the global batch.
"""

import math

import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import one_of
from mmdcodec.parallel import mapped, rules

KINDS = ("decoupled", "softmax", "sigmoid")


def bounded_scale(raw: jax.Array, low: float, high: float) -> jax.Array:
  """Factor of the cosines, 1 / temperature, from a trained number.

  A sigmoid between the logarithms of the bounds: never outside of them, and
  never without a gradient, which a clipped number may lose for good.

  Args:
    raw: scalar, any real number.
    low: lower bound, above 0.
    high: upper bound.

  Returns:
    float32 scalar.
  """
  share = jax.nn.sigmoid(raw.astype(jnp.float32))
  return jnp.exp(math.log(low) + (math.log(high) - math.log(low)) * share)


def raw_of_scale(scale: float, low: float, high: float) -> float:
  """The number that `bounded_scale` maps to `scale`, which lies between both.

  Raises:
    ValueError: the scale is not between the bounds.
  """
  if not 0 < low < scale < high:
    raise ValueError(
      f"the scale is {scale}; expected a number between {low} and {high}"
    )
  share = math.log(scale / low) / math.log(high / low)
  return math.log(share / (1 - share))


def contrastive(
  audio: jax.Array,
  text: jax.Array,
  scale: jax.Array | float,
  bias: jax.Array | float = 0.0,
  *,
  kind: str,
  skip: jax.Array | None = None,
  valid: jax.Array | None = None,
) -> jax.Array:
  """Computes a contrastive loss over all pairs of a batch.

  Args:
    audio: float [rows, dim] of norm 1.
    text: float [rows, dim] of norm 1.
    scale: scalar factor of the cosines, 1 / temperature.
    bias: scalar added to them by the sigmoid loss.
    kind: one of KINDS.
    skip: bool [rows, rows], pairs that are no negatives, such as those of
      clips with the same text; the diagonal is ignored.
    valid: bool [rows], False for rows that take no part.

  Returns:
    float32 scalar, the mean over the valid rows; 0 without any. A row without
    negatives counts as 0.

  Raises:
    UserError: an unknown kind, or a call inside `jax.shard_map`.
    ValueError: the embeddings do not have the same shape.
  """
  bounds.check("the contrastive loss", kind, one_of(KINDS))
  mapped.check_global("a contrastive loss")
  bounds.check_shape("audio", audio, rows=None, dim=None)
  rows, dim = audio.shape
  bounds.check_shape("text", text, rows=rows, dim=dim)
  audio, text = (x.astype(jnp.float32) for x in (audio, text))
  # Every device holds the texts of all, and the logits of its own audio.
  text = rules.constrain(text, None, None)
  cosines = jnp.matmul(audio, text.T, precision="highest")
  logits = rules.constrain(scale * cosines, "batch", None)
  here = jnp.ones(rows, bool) if valid is None else valid
  pairs = here[:, None] & here[None, :]
  own = jnp.eye(rows, dtype=bool)
  negative = pairs & ~own
  if skip is not None:
    negative &= ~skip
  count = jnp.maximum(here.sum(), 1)
  if kind == "sigmoid":
    signed = jnp.where(own, 1.0, -1.0) * (logits + bias)
    terms = -jax.nn.log_sigmoid(signed)
    return jnp.sum(jnp.where(negative | (own & pairs), terms, 0.0)) / count
  compared = negative | own if kind == "softmax" else negative
  mine = jnp.diagonal(logits)

  def towards(axis: int) -> jax.Array:
    """The loss of each row, of audio (axis 1) or of text (axis 0)."""
    some = here & negative.any(axis)
    # A sum over nothing has no gradient.
    taken = compared | ~jnp.expand_dims(some, axis)
    total = jax.nn.logsumexp(logits, axis, where=taken)
    return jnp.where(some, total - mine, 0.0)

  return jnp.sum(towards(1) + towards(0)) / (2 * count)
