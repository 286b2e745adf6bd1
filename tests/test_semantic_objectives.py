"""Objectives of the semantic network against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.losses import masking
from mmdcodec.losses.contrastive_masked import contrastive
from mmdcodec.models.objective_best_rq import BestRQ
from mmdcodec.models.semantic_outputs import Heard
from mmdcodec.quantize import gumbel, random_projection

BATCH, FRAMES, DIM, CODES = 3, 12, 5, 7


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_contrastive_loss():
  """Catches a distractor too many or too few, and another similarity.

  Distractors are all other masked frames of the same clip, also those with the
  same vector: or codes that are all the same would cost nothing.
  """
  random = np.random.default_rng(1)
  context, targets = draw(BATCH, FRAMES, DIM), draw(BATCH, FRAMES, DIM, seed=2)
  targets[0, 6:] = targets[0, 5]
  mask = random.random((BATCH, FRAMES)) < 0.5
  mask[2] = False
  mask[2, 4] = True  # Nothing to compare it with.

  @jax.jit
  def run(context, targets):
    loss = lambda c, t: contrastive(c, t, mask, 0.1)
    zero = jnp.zeros_like(context)
    grads = jax.grad(lambda c, t: loss(c, t)[0].sum(), (0, 1))(zero, zero)
    return loss(context, targets), grads

  found, grads = jax.device_get(run(context, targets))
  nats, right, others = found
  for b in range(BATCH):
    for i in range(FRAMES):
      if not mask[b, i]:
        assert nats[b, i] == 0 and not right[b, i] and others[b, i] == 0
        continue

      def similar(j, b=b, i=i):
        c, t = np.float64(context[b, i]), np.float64(targets[b, j])
        return c @ t / np.linalg.norm(c) / np.linalg.norm(t)

      against = [similar(j) for j in range(FRAMES) if mask[b, j] and j != i]
      logits = np.array([similar(i), *against]) / 0.1
      want = -np.log(softmax(logits)[0])
      np.testing.assert_allclose(nats[b, i], want, rtol=2e-5, atol=1e-5)
      assert others[b, i] == len(against)
      best = max(against, default=-1)
      if abs(best - similar(i)) > 1e-5:
        assert right[b, i] == (similar(i) > best)
  assert all(np.isfinite(g).all() for g in grads)


def test_gumbel_quantizer():
  """Catches a wrong code, noise in the target, and another gradient."""
  logits, codebook = draw(4, CODES), draw(CODES, DIM, seed=1)
  weights, temperature = draw(4, DIM, seed=2), 0.7

  @jax.jit
  def run(logits):
    choose = lambda x: gumbel.choose(x, codebook, temperature)
    grad = jax.grad(lambda x: (choose(x)[0] * weights).sum())(logits)
    return *choose(logits), grad

  vectors, index, found = jax.device_get(run(logits))
  np.testing.assert_array_equal(index, logits.argmax(-1))
  np.testing.assert_allclose(vectors, codebook[index], rtol=1e-6)
  # The gradient is that of the soft choice.
  p = softmax(np.float64(logits) / temperature)
  pull = np.float64(weights) @ np.float64(codebook).T
  want = p * (pull - (p * pull).sum(-1, keepdims=True)) / temperature
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)

  module = gumbel.GumbelQuantizer(CODES, DIM)
  x, mask = draw(2, 100, 3), np.ones((2, 100), bool)

  @jax.jit
  def both(key):
    variables = module.init(key, x, mask, None)
    run = lambda key: module.apply(variables, x, mask, key)
    return run(None), run(key), variables["params"]["codebook"]

  plain, noisy, book = jax.device_get(both(jax.random.key(1)))
  np.testing.assert_array_equal(plain.drawn, plain.ids)
  np.testing.assert_array_equal(noisy.ids, plain.ids)
  assert np.any(noisy.drawn != plain.ids)
  np.testing.assert_allclose(noisy.vectors, book[noisy.drawn], rtol=1e-6)


def test_standardised_logits():
  """Catches padding that counts, and a code that is never chosen."""
  logits, mask = draw(BATCH, FRAMES, CODES), np.ones((BATCH, FRAMES), bool)
  logits[..., 0] -= 100
  mask[1, 5:] = False
  rows = np.float64(logits)[mask]
  want = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
  found = np.asarray(jax.jit(gumbel.standardise)(logits, mask))
  np.testing.assert_allclose(found[mask], want, rtol=1e-4, atol=1e-4)
  assert 0 in found[mask].argmax(-1)


def test_diversity():
  """Catches padding that counts, and a loss that is not 0 for even use."""
  logits, mask = draw(BATCH, FRAMES, CODES), np.ones((BATCH, FRAMES), bool)
  mask[1, 5:] = False
  p = softmax(np.float64(logits))[mask].mean(0)
  want = 1 - np.exp(-(p * np.log(p)).sum()) / CODES
  run = jax.jit(gumbel.diversity)
  np.testing.assert_allclose(run(logits, mask), want, rtol=1e-5)
  even = np.zeros_like(logits)
  np.testing.assert_allclose(run(even, mask), 0, atol=1e-6)
  even[..., 2] = 1e4
  np.testing.assert_allclose(run(even, mask), 1 - 1 / CODES, rtol=1e-6)


def test_random_projection():
  """Catches a distance of vectors that are not normalised."""
  x, projection = draw(50, 8), draw(8, DIM, seed=1)
  codebook = draw(CODES, DIM, seed=2)
  run = jax.jit(random_projection.targets)
  found = np.asarray(run(x, projection, codebook))
  y = np.float64(x) @ np.float64(projection)
  y /= np.linalg.norm(y, axis=-1, keepdims=True)
  book = np.float64(codebook)
  book /= np.linalg.norm(book, axis=-1, keepdims=True)
  distances = np.linalg.norm(y[:, None] - book, axis=-1)
  np.testing.assert_array_equal(found, distances.argmin(-1))
  assert len({*found.tolist()}) > 3
  # How loud a frame is does not count.
  louder = run(3 * x, projection, codebook)
  np.testing.assert_array_equal(found, louder)


@pytest.mark.parametrize("kind", masking.MASKS)
def test_masks(kind):
  """Catches a wrong share or length of spans, and masks of padding."""
  length, share = 10, {"spans": 0.065, "blocks": 0.6}[kind]
  valid = np.ones((400, 250), bool)
  valid[0, 100:] = False
  make = jax.jit(masking.MASKS[kind], static_argnums=(2, 3))
  mask = np.asarray(make(jax.random.key(0), valid, share, length))
  assert not mask[0, 100:].any() and mask[0].any()
  # Where a span may have begun in every one of ten frames.
  want = share if kind == "blocks" else 1 - (1 - share) ** length
  np.testing.assert_allclose(mask[1:, 10:].mean(), want, atol=0.01)
  # Runs end at the end of a clip, or after at least ten frames.
  edges = np.diff(np.pad(mask[1:], ((0, 0), (1, 1))).astype(int))
  begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
  runs = (ends - begins)[:, 1]
  assert (runs[ends[:, 1] < 250] >= length).all()
  if kind == "blocks":
    assert (begins[:, 1] % length == 0).all()


def test_loss_of_frames_that_are_heard():
  """Catches a frame in both losses or in none, and padding in either.

  Whatever the mask, the two means times their counts add up to the same.
  """
  valid = np.arange(FRAMES) < np.array([[FRAMES], [7], [3]])
  objective = BestRQ(CODES, DIM, jnp.float32)

  def heard(masked, predicted):
    spectra = draw(BATCH, 4 * FRAMES, 2)
    return Heard(spectra, None, predicted, predicted, masked & valid, valid)

  predicted = draw(BATCH, FRAMES, 6, seed=1)
  none, every = np.zeros_like(valid), np.ones_like(valid)
  init = jax.jit(lambda key: objective.init(key, heard(none, predicted)))
  variables = init(jax.random.key(0))

  @jax.jit
  def run(masked, predicted):
    return objective.apply(variables, heard(masked, predicted)).losses

  some = np.random.default_rng(2).random(valid.shape) < 0.5
  count = (some & valid).sum(), (~some & valid).sum()
  whole = run(none, predicted)
  assert whole["prediction"] == 0 and whole["unmasked"] > 0
  assert run(every, predicted)["unmasked"] == 0
  # Padding says anything.
  padded = np.where(valid[..., None], predicted, 100).astype(np.float32)
  parts = run(some, padded)
  total = count[0] * parts["prediction"] + count[1] * parts["unmasked"]
  np.testing.assert_allclose(total, valid.sum() * whole["unmasked"], rtol=1e-5)
