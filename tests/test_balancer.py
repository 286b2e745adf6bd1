"""Loss balancer: shares of the gradient, running norms, losses that come late.

Must catch: norms over the wrong axes, a running mean that starts with zeros or
takes up steps in which a loss was off, weights that are not shares, norms of a
device's part of the batch instead of the batch, one bad gradient that stays.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmdcodec.losses import balancer

WEIGHTS = {"adversarial": 3.0, "feature": 3.0, "waveform": 0.1, "mel": 1.0}


def random_grads(random, off=()):
  """A gradient [3, 20, 2] per loss, of scales from 1e-3 to 1e3."""
  found = {}
  for name in WEIGHTS:
    scale = 0.0 if name in off else 10 ** random.uniform(-3, 3)
    found[name] = scale * random.standard_normal((3, 20, 2))
  return {name: g.astype(np.float32) for name, g in found.items()}


def opposite_pulls():
  """EnCodec's own case: |x - 1| and 100 |x + 1| at x = 0."""
  x = jnp.zeros((1, 1, 1))
  return {
    "one": jax.grad(lambda x: jnp.mean(jnp.abs(x - 1)))(x),
    "two": jax.grad(lambda x: 100 * jnp.mean(jnp.abs(x + 1)))(x),
  }


@pytest.mark.parametrize("rescale, want", [(False, 99.0), (True, 0.0)])
def test_published_case(rescale, want):
  """Catches a rescaling that is always, or never, on."""
  weights = {"one": 1.0, "two": 1.0}
  gradient, _, norms = balancer.balance(
    balancer.init(weights), opposite_pulls(), weights, rescale=rescale
  )
  np.testing.assert_allclose(gradient, want, atol=1e-6)
  assert (float(norms["one"]), float(norms["two"])) == (1.0, 100.0)


@pytest.mark.parametrize("per_batch_item", [True, False])
@pytest.mark.parametrize("decay", [0.999, 1.0])
def test_random_steps_against_the_formula(per_batch_item, decay):
  """Catches any slip of norms, running means or shares, over 50 steps.

  The reference sums the whole history of each loss anew in every step, in
  float64. Two losses are off at first, and one of them now and then.
  """
  random = np.random.default_rng(0)
  history = {name: [] for name in WEIGHTS}
  state = balancer.init(WEIGHTS)
  step = jax.jit(
    lambda state, grads: balancer.balance(
      state,
      grads,
      WEIGHTS,
      decay=decay,
      total_norm=2.0,
      per_batch_item=per_batch_item,
    )
  )
  for i in range(50):
    off = ("adversarial", "feature") if i < 7 else ("feature",) * (i % 5 == 0)
    grads = random_grads(random, off)
    wide = {name: g.astype(np.float64) for name, g in grads.items()}
    on = [name for name in WEIGHTS if name not in off]
    want = np.zeros((3, 20, 2))
    for name in on:
      items = wide[name] if per_batch_item else wide[name].reshape(1, -1)
      norm = np.mean([np.linalg.norm(item) for item in items])
      history[name].append(norm)
      ages = decay ** np.arange(len(history[name]))[::-1]
      mean = np.sum(ages * history[name]) / np.sum(ages)
      share = WEIGHTS[name] / sum(WEIGHTS[n] for n in on)
      want += 2.0 * share * wide[name] / mean
    got, state, norms = step(state, grads)
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()
    for name in on:
      np.testing.assert_allclose(norms[name], history[name][-1], rtol=1e-5)


def test_weights_are_shares():
  """Catches scales of losses that leak through, and weights not normalised."""
  random = np.random.default_rng(1)
  state = balancer.init(WEIGHTS)
  grads = random_grads(random)
  total = sum(WEIGHTS.values())
  for name, weight in WEIGHTS.items():
    alone = {n: g if n == name else 0 * g for n, g in grads.items()}
    # All there, but the others point nowhere: what is left is this one's part.
    _, state_all, _ = balancer.balance(state, grads, WEIGHTS)
    scaled = {n: 1e4 * g if n == name else g for n, g in grads.items()}
    y, _, _ = balancer.balance(state, grads, WEIGHTS)
    z, _, _ = balancer.balance(state, scaled, WEIGHTS)
    np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-6)
    rest = {n: g for n, g in grads.items() if n != name}
    without, _, _ = balancer.balance(state, rest, WEIGHTS)
    part = np.asarray(y) - np.asarray(without) * (total - weight) / total
    norm = np.mean([np.linalg.norm(item) for item in part])
    np.testing.assert_allclose(norm, weight / total, rtol=1e-4)
    # And alone it has the whole norm.
    y, _, _ = balancer.balance(state_all, alone, WEIGHTS)
    norm = np.mean([np.linalg.norm(item) for item in np.asarray(y)])
    np.testing.assert_allclose(norm, 1.0, rtol=1e-4)


def test_loss_that_begins_late():
  """Catches zeros in the running mean, which make a late loss explode."""
  random = np.random.default_rng(2)
  state = balancer.init(WEIGHTS)
  step = jax.jit(lambda s, g: balancer.balance(s, g, WEIGHTS))
  for _ in range(20):
    y, state, _ = step(state, random_grads(random, ("adversarial", "feature")))
    assert np.isfinite(y).all()
  assert float(state.weight["adversarial"]) == 0
  y, state, norms = step(state, random_grads(random))
  assert np.isfinite(y).all()
  mean = state.norms["adversarial"] / state.weight["adversarial"]
  np.testing.assert_allclose(mean, norms["adversarial"], rtol=1e-6)


def test_nothing_but_zeros():
  """Catches 0 / 0 where a clip is silent and every gradient is zero."""
  zeros = {name: jnp.zeros((3, 20, 2)) for name in WEIGHTS}
  y, state, _ = balancer.balance(balancer.init(WEIGHTS), zeros, WEIGHTS)
  assert not np.any(y)
  assert all(float(v) == 0 for v in jax.tree.leaves(state))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradient_that_is_not_finite(bad):
  """Catches a running norm that one bad step makes useless for ever.

  The bad step itself must show, so that the update can be left out.
  """
  random = np.random.default_rng(3)
  state = balancer.init(WEIGHTS)
  for _ in range(3):
    _, state, _ = balancer.balance(state, random_grads(random), WEIGHTS)
  grads = random_grads(random)
  grads["mel"][0, 0, 0] = bad
  y, after, norms = balancer.balance(state, grads, WEIGHTS)
  assert not np.isfinite(y).all() and not np.isfinite(norms["mel"])
  assert float(after.norms["mel"]) == float(state.norms["mel"])
  assert float(after.weight["mel"]) == float(state.weight["mel"])
  y, _, _ = balancer.balance(after, random_grads(random), WEIGHTS)
  assert np.isfinite(y).all()


def test_losses_that_are_left_out():
  """Catches a step with fewer losses that changes or needs the others."""
  random = np.random.default_rng(4)
  _, state, _ = balancer.balance(
    balancer.init(WEIGHTS), random_grads(random), WEIGHTS
  )
  grads = random_grads(random)
  few = {name: grads[name] for name in ("mel", "waveform")}
  y, after, _ = balancer.balance(state, few, WEIGHTS)
  off = {n: g if n in few else np.zeros_like(g) for n, g in grads.items()}
  z, after_off, _ = balancer.balance(state, off, WEIGHTS)
  np.testing.assert_allclose(y, z, rtol=1e-6)
  chex.assert_trees_all_equal(after, after_off)
  with pytest.raises(ValueError, match="unknown"):
    balancer.balance(state, {"unknown": grads["mel"]}, WEIGHTS)
  with pytest.raises(ValueError, match="no gradients"):
    balancer.balance(state, {}, WEIGHTS)


def test_norms_of_the_global_batch():
  """Catches norms of each device's part of the batch."""
  random = np.random.default_rng(5)
  grads = {
    name: (10.0 ** np.arange(-4, 4))[:, None, None]
    * random.standard_normal((8, 20, 2))
    for name in WEIGHTS
  }
  grads = {name: g.astype(np.float32) for name, g in grads.items()}
  state = balancer.init(WEIGHTS)
  step = jax.jit(lambda s, g: balancer.balance(s, g, WEIGHTS))
  want = step(state, grads)
  mesh = Mesh(np.array(jax.devices()), ("data",))
  spread = NamedSharding(mesh, PartitionSpec("data"))
  got = step(state, jax.device_put(grads, spread))
  assert len(got[0].sharding.device_set) == 8
  chex.assert_trees_all_close(got, want, rtol=1e-5)
