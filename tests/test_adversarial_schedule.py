"""When discriminators learn, and when a codec hears them.

Must catch: discriminators that learn or are heard at the wrong time, or more
than once a step; a schedule that does not end with the run.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adversarial_steps import (
  clips,
  configure,
  judge_and_learn,
  run_steps,
  started,
  tree_close,
)

from mmdcodec import platform
from mmdcodec.train import adversarial
from mmdcodec.train.task import make_task

pytestmark = pytest.mark.usefixtures("compile_fast")


def test_start_warmup_and_every():
  """Catches discriminators that learn or are heard at the wrong time."""
  config = configure(
    **{
      "adversarial.start": 2,
      "adversarial.warmup": 2,
      "adversarial.every": 1.5,
      "balancer.on": True,
    }
  )
  rows, _ = run_steps(config, 8)
  heard = [row["audio_gradient/adversarial"] > 0 for row in rows]
  assert heard == [False] * 4 + [True] * 4
  # Two of three steps of their own clock, which begins in the third.
  learned = [np.isfinite(row["discriminator/gradient_norm"]) for row in rows]
  assert learned == [False, False] + [False, True, True] * 2
  assert [np.isfinite(row["discriminator/loss"]) for row in rows] == (
    [False] * 2 + [True] * 6
  )
  assert all(np.isfinite(row["loss"]) for row in rows)


def test_the_schedule_of_the_discriminators_ends_with_the_run():
  """Catches one that is stretched by steps in which they do not learn."""
  config = configure(
    **{
      "steps": 10,
      "adversarial.start": 4,
      "adversarial.every": 2.0,
      "adversarial.optimizer.name": "sgd",
      "adversarial.optimizer.b1": 0.0,
      "adversarial.optimizer.learning_rate": 1.0,
      "adversarial.optimizer.schedule": "linear",
      "adversarial.optimizer.final": 0.1,
    }
  )
  adversary = make_task(config.to_dict()).adversary
  ones = {"w": jnp.ones(())}
  state = adversarial.AdversaryState(
    ones, adversary._optimizer.init(ones), jnp.int32(0)
  )
  rates = []
  for step in range(4, 10):
    before = state.params["w"]
    state, _ = adversary.learn(state, ones, jnp.float32(1), jnp.int32(step))
    rates.append(before - state.params["w"])
  # Three updates; a fourth would have the last rate, 0.1.
  np.testing.assert_allclose(rates, [0, 1, 0, 0.7, 0, 0.4], atol=1e-6)
  # A run may end before they begin, or in their warm-up.
  config.adversarial.optimizer.warmup = 9
  make_task(config.to_dict())
  config.adversarial.start = 10
  make_task(config.to_dict())


@pytest.mark.slow
def test_a_batch_in_parts_is_one_step():
  """Catches discriminators that learn once for each part of a batch.

  And a balanced gradient that is smaller the more parts there are.
  """
  found = {}
  for parts in (1, 2):
    config = configure(
      **{
        "accumulate": parts,
        "adversarial.every": 1.0,
        "batch": 4,
        "balancer.on": True,
        "optimizer.clip": 0.0,
        # Codes and codebooks are then the same for each part.
        "freeze": "encoder",
        "init_from": "given",
        "model.quantizer_dropout": 0.0,
      }
    )
    config.losses.adversarial.weight = config.losses.features.weight = 1.0
    (row,), state = run_steps(config, 1)
    moments = state.extra["adversary"].opt_state[1][0]
    assert moments.count == 1
    found[parts] = row["gradient_norm"], row["loss"], moments.mu
  (norm, loss, mean), (one, other, parts) = found.values()
  np.testing.assert_allclose(one, norm, rtol=0.2)
  np.testing.assert_allclose(other, loss, rtol=0.1)
  tree_close(parts, mean, 1e-3)


@pytest.mark.parametrize(
  "accelerator", ["gpu", pytest.param("tpu", marks=pytest.mark.slow)]
)
def test_steps_in_which_they_do_not_learn(monkeypatch, accelerator):
  """Catches a branch, as on GPUs and TPUs, that differs from a choice.

  And work in vain, and a step of folded discriminators, as on TPUs, that is
  another one.
  """
  config = configure(**{"adversarial.every": 2.0}).to_dict()
  task = make_task(config)
  before = started().extra["adversary"]
  x = jnp.asarray(clips(3)["audio"])
  found = {}
  for kind in ("cpu", accelerator):
    monkeypatch.setattr(platform, "traced_for", lambda kind=kind: kind)
    # A function of its own, as the trace is cached by function.
    run = jax.jit(lambda *given: judge_and_learn(task, *given))
    # One of the gradient, one of the update.
    program = str(run.trace(before, x, x, jnp.int32(0)).jaxpr)
    assert program.count("cond[") == (0 if kind == "cpu" else 2)
    found[kind] = [
      jax.device_get(run(before, x, 0.5 * x, jnp.int32(step)))
      for step in (2, 3)
    ]
  for step in range(2):
    after, *_, values = found["cpu"][step]
    assert np.isfinite(values["discriminator/gradient_norm"]) == (step == 1)
    moved = jax.tree.map(np.array_equal, after.params, before.params)
    assert all(jax.tree.leaves(moved)) == (step == 0)
    chex.assert_trees_all_close(
      found[accelerator][step], found["cpu"][step], rtol=1e-3, atol=1e-5
    )
