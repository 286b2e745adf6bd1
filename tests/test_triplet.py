"""The triplet loss with semi-hard negatives, against a search in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.losses import triplet

LABELS = np.array([0, 1, 0, 2, 1, 2, 0, 3])


def reference(x, labels, margin):
  """Every anchor, positive and negative one by one; see the paper, 3.2."""
  x = np.float64(x)
  distance = np.sqrt(((x[:, None] - x) ** 2).sum(-1))
  terms, kinds = [], set()
  for a in range(len(x)):
    for p in range(len(x)):
      if p == a or labels[p] != labels[a]:
        continue
      others = [distance[a, n] for n in range(len(x)) if labels[n] != labels[a]]
      farther = [d for d in others if d > distance[a, p]]
      kinds.add(bool(farther))
      negative = min(farther) if farther else max(others)
      terms.append(max(0, distance[a, p] - negative + margin))
  return np.mean(terms), kinds


def points(seed, spread=0.6):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(4, 3))[LABELS] + spread * rng.normal(size=(8, 3))
  return np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))


def test_values_and_gradients():
  """Catches a wrong negative, a wrong mean, or a gradient through a choice."""
  loss = jax.jit(lambda x, m: triplet.semi_hard(x, LABELS, margin=m)[0])
  kinds = set()
  for seed in range(6):
    x = points(seed)
    for margin in (0.2, 1.0):
      want, found = reference(x, LABELS, margin)
      kinds |= found
      np.testing.assert_allclose(loss(x, margin), want, rtol=1e-5, atol=1e-6)
  # Pairs with a semi-hard negative, and pairs without any.
  assert kinds == {True, False}
  chex.assert_numerical_grads(
    lambda x: loss(x, 1.0), (jnp.asarray(points(0)),), order=1, atol=2e-2
  )


def test_special_batches():
  """Catches NaN at collapse, without pairs and without negatives."""
  same = np.tile(points(0)[:1], (8, 1))
  take = jax.jit(
    lambda x, labels: jax.value_and_grad(
      lambda x: triplet.semi_hard(x, labels, margin=0.2), has_aux=True
    )(x)
  )
  (loss, metrics), grad = take(same, LABELS)
  np.testing.assert_allclose(loss, 0.2, atol=1e-6)
  assert not metrics["accuracy"] and np.isfinite(grad).all()
  for labels in (np.arange(8), np.zeros(8, int)):
    (loss, _), grad = take(points(0), labels)
    assert loss == 0 and not grad.any()


def test_equal_distances():
  """Catches a negative that is as far as the positive instead of farther."""
  x = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]], np.float32)
  loss, _ = triplet.semi_hard(x, np.array([0, 0, 1, 2]), margin=0.2)
  # The first has a negative that is farther by 0.6, the second one none.
  np.testing.assert_allclose(loss, 0.1, atol=1e-6)


def test_what_is_counted():
  """Catches an anchor without a positive that counts, and itself as nearest."""
  corners = np.eye(3, dtype=np.float32)
  x, labels = corners[[0, 0, 1, 1, 2]], np.array([0, 0, 1, 1, 2])
  _, metrics = triplet.semi_hard(x, labels, margin=0.2)
  assert metrics["accuracy"] == 1 and metrics["active"] == 0
  _, metrics = triplet.semi_hard(x, np.array([0, 1, 0, 1, 2]), margin=0.2)
  assert metrics["accuracy"] == 0 and metrics["active"] == 1
