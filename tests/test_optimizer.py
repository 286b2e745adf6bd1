"""Schedules against closed forms; the guarded update against arithmetic."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmdcodec.errors import UserError
from mmdcodec.train import optimizer, state

CONFIG = dict(
  name="adam",
  learning_rate=1e-3,
  b1=0.9,
  b2=0.99,
  weight_decay=0.1,
  clip=0.0,
  schedule="constant",
  warmup=10,
  final=0.1,
)


@pytest.mark.parametrize(
  "kind, expected",
  [
    ("constant", lambda t: 1.0),
    ("linear", lambda t: 1 - 0.9 * t),
    ("cosine", lambda t: 0.1 + 0.9 * (1 + np.cos(np.pi * t)) / 2),
    ("exponential", lambda t: 0.1**t),
    ("inverse_sqrt", lambda t: (10 / (10 + 90 * t)) ** 0.5),
  ],
)
def test_schedules_follow_their_formula(kind, expected):
  """Catches a wrong decay, a jump after the warm-up, a first step at rate 0."""
  schedule = optimizer.make_schedule({**CONFIG, "schedule": kind}, 100)
  for step in range(10):
    np.testing.assert_allclose(schedule(step), 1e-3 * (step + 1) / 10, 1e-6)
  for step in (10, 37, 99):
    np.testing.assert_allclose(
      schedule(step), 1e-3 * expected((step - 10) / 90), rtol=1e-5
    )


@pytest.mark.parametrize(
  "changes, word",
  [
    (dict(schedule="magic"), "schedule"),
    (dict(name="magic"), "optimizer.name"),
    (dict(warmup=100), "warmup"),
    (dict(schedule="exponential", final=0.0), "final"),
  ],
)
def test_impossible_settings_are_named(changes, word):
  """Catches a setting that is silently read as another one."""
  with pytest.raises(UserError, match=word):
    optimizer.make_optimizer({**CONFIG, **changes}, 100)


def test_clip_bounds_the_gradient():
  """Catches a clip that acts after the optimizer or not at all."""
  tx, _ = optimizer.make_optimizer(
    {**CONFIG, "name": "sgd", "b1": 0.0, "clip": 2.0, "warmup": 0}, 100
  )
  params = {"w": jnp.zeros(4)}
  updates, _ = tx.update({"w": jnp.full(4, 50.0)}, tx.init(params), params)
  np.testing.assert_allclose(updates["w"], -1e-3 * 1.0, rtol=1e-5)


def test_weight_decay_leaves_biases_alone():
  """Catches decay of one-dimensional parameters (biases, gains)."""
  tx, _ = optimizer.make_optimizer({**CONFIG, "name": "adamw"}, 100)
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  assert np.all(np.asarray(updates["kernel"]) < 0)
  assert np.all(np.asarray(updates["bias"]) == 0)


def _state():
  # Momentum, so that there is optimizer state to spoil.
  tx = optax.sgd(0.5, momentum=0.0)
  variables = {"params": {"w": jnp.ones(3)}, "codebook": {"n": jnp.zeros(())}}
  return tx, state.TrainState.create(variables, tx, ema=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(bad, where):
  """Catches a NaN that reaches parameters, codebooks, average or optimizer."""
  tx, before = _state()
  grads = {"w": jnp.ones(3).at[1].set(bad if where == "gradient" else 1.0)}
  loss = jnp.float32(bad if where == "loss" else 1.0)
  changed = {"codebook": {"n": jnp.float32(7)}}
  after, metrics = state.update(before, grads, changed, loss, tx, ema_decay=0.9)
  for name in ("params", "collections", "opt_state", "ema"):
    old, new = getattr(before, name), getattr(after, name)
    chex.assert_trees_all_equal(old, new)
  assert int(after.step) == 1
  assert int(metrics["skipped_steps"]) == int(metrics["skipped_in_a_row"]) == 1
  # A good step ends the row but not the count.
  after, metrics = state.update(
    after, {"w": jnp.ones(3)}, changed, jnp.float32(1), tx, ema_decay=0.9
  )
  assert int(metrics["skipped_steps"]) == 1
  assert int(metrics["skipped_in_a_row"]) == 0
  np.testing.assert_allclose(after.params["w"], 0.5)
  assert float(after.collections["codebook"]["n"]) == 7


def test_average_of_weights():
  """Catches a wrong or unbounded EMA: against the recursion in float64."""
  tx, train_state = _state()
  w, average = 1.0, 1.0
  for step in range(30):
    grads = {"w": jnp.full(3, 0.1)}
    train_state, _ = state.update(
      train_state, grads, train_state.collections, jnp.float32(0), tx,
      ema_decay=0.7,
    )  # fmt: skip
    w -= 0.05
    decay = min(0.7, (1 + step) / (10 + step))
    average = decay * average + (1 - decay) * w
  np.testing.assert_allclose(train_state.ema["w"], average, rtol=1e-5)
  assert train_state.released()["params"] is train_state.ema
