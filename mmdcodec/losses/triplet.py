"""The triplet loss with semi-hard negatives.

Schroff, Kalenichenko and Philbin 2015, arXiv 1503.03832 (FaceNet), 3.2. For two
items of a class, the anchor and the positive one, the negative one is the
nearest item of another class that is farther from the anchor than the positive
one is. Harder ones, which are nearer, drive early training into collapse.

Distances are not squared, unlike the paper's: the gradient of a square vanishes
where all items are near each other, so that training stays there (Hermans et
al. 2017, arXiv 1703.07737, 3.1).
"""

import jax
import jax.numpy as jnp

from mmdcodec.parallel import mapped


def semi_hard(
  x: jax.Array, labels: jax.Array, *, margin: float = 0.2
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Mean of the loss over all anchors and positives of a batch.

    max(0, |a - p| - |a - n| + margin)

  If no negative is farther than the positive, the farthest negative is taken.

  Args:
    x: float32 [batch, dim], on the unit sphere.
    labels: int [batch], equal for items of one class.
    margin: by how much negatives are to be farther. At collapse, where all x
      are equal, the loss has this value.

  Returns:
    (loss, metrics: `accuracy`, share of anchors whose nearest other item is of
    their class; `active`, share of pairs with a loss). The loss is 0 if the
    batch has no pair or no negative.

  Raises:
    UserError: called inside `jax.shard_map` or `jax.pmap`.
  """
  mapped.check_global("the triplet loss")
  x = x.astype(jnp.float32)
  square = jnp.sum(x * x, -1)
  product = jnp.matmul(x, x.T, precision="highest")
  square = jnp.maximum(square[:, None] + square - 2 * product, 0.0)
  # Smooth at 0.
  distance = jnp.sqrt(square + 1e-12)
  same = labels[:, None] == labels
  alone = jnp.eye(len(x), dtype=bool)
  # Negatives of each anchor by distance, others at the end.
  negatives = jnp.sort(jnp.where(same, jnp.inf, distance), axis=1)
  count = jnp.sum(~same, axis=1)

  def first_farther(row: jax.Array, wanted: jax.Array) -> jax.Array:
    return jnp.searchsorted(row, wanted, side="right")

  at = jax.vmap(first_farther)(negatives, distance)
  at = jnp.clip(at, 0, jnp.maximum(count - 1, 0)[:, None])
  negative = jnp.take_along_axis(negatives, at, axis=1)
  pairs = same & ~alone & (count > 0)[:, None]
  # Infinite ones, where there is no negative, must not reach the gradient.
  negative = jnp.where(pairs, negative, 0.0)
  terms = jnp.maximum(distance - negative + margin, 0.0)
  total = jnp.maximum(jnp.sum(pairs), 1)
  loss = jnp.sum(jnp.where(pairs, terms, 0.0)) / total
  others = jnp.where(alone, jnp.inf, distance)
  own = jnp.min(jnp.where(same, others, jnp.inf), axis=1)
  wrong = jnp.min(jnp.where(same, jnp.inf, others), axis=1)
  anchors = jnp.any(pairs, axis=1)
  count_of = lambda x: jnp.sum(x, dtype=jnp.float32)
  metrics = {
    "accuracy": count_of(anchors & (own < wrong))
    / jnp.maximum(count_of(anchors), 1),
    "active": count_of(pairs & (terms > 0)) / total,
  }
  return loss, metrics
