"""Runs that become unsound: what they save, and whether they can go on."""

import jax.numpy as jnp
import numpy as np
import pytest
from toy_task import Toy, toy_config

from mmdcodec.errors import UserError
from mmdcodec.store import metrics
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import loop, opening


class Fragile(Toy):
  """A task whose loss is NaN in some steps, and overflows at large weights."""

  bad = ()

  def loss(self, params, collections, extra, batch, key, step, phase=None):
    """The fourth power of the weights."""
    bad = jnp.isin(step + 1, jnp.array([*self.bad, 0]))
    value = jnp.sum(params["w"] ** 4) + 0 * jnp.sum(batch["audio"])
    return jnp.where(bad, jnp.nan, value), (collections, extra, {})

  def phase(self, step):
    """One program."""
    return None


@pytest.fixture
def train(tmp_path, monkeypatch):
  """Trains in the same workdir; returns all checkpoints, and the last state."""

  def run(*, bad=(), rate=1e-3, warmup=0, **changes):
    config = toy_config(**changes)
    config.optimizer.update(name="sgd", b1=0.0, clip=0.0, learning_rate=rate)
    config.optimizer.warmup = warmup
    task = type("Task", (Fragile,), {"bad": bad})
    monkeypatch.setattr(opening, "make_task", task)
    loop.train(config, tmp_path, log=lambda line: None)
    return saved(tmp_path)

  return run


def saved(workdir):
  """Steps of the checkpoints, and the weights of the last."""
  checkpoints = Checkpoints(workdir, read_only=True)
  steps = sorted(
    map(int, (p.name for p in (workdir / "checkpoints").iterdir()))
  )
  w = checkpoints.restore_arrays()["params"]["w"] if steps else None
  checkpoints.close()
  return steps, w


def test_ruined_weights_are_not_saved(train, tmp_path):
  """Catches a check of loss and gradient alone, at any place of a save."""
  with pytest.raises(UserError, match="nothing is saved yet"):
    train(rate=1e30, max_skipped=3, save_every=1)
  assert [row["step"] for row in metrics.read(tmp_path)] == [1, 2, 3]
  assert saved(tmp_path)[0] == []
  assert train()[0] == [5]


def test_a_run_that_ends_unsound_says_so(train, tmp_path):
  """Catches an exit with success, and nothing saved, before max_skipped."""
  with pytest.raises(UserError, match="step 5, the last one.*begins anew"):
    train(rate=1e30)
  assert saved(tmp_path)[0] == []


def test_a_checkpoint_whose_first_loss_is_not_finite(train, tmp_path):
  """Catches a restart that fails for ever: finite weights may be ruined too."""
  with pytest.raises(UserError, match="nothing is saved.*unsound-1"):
    train(rate=1e10, max_skipped=3, save_every=1)
  assert (tmp_path / "unsound-1").is_dir()
  assert train()[0] == [5]


def test_a_bad_rate_does_not_cost_an_earlier_checkpoint(train, tmp_path):
  """Catches a good checkpoint set aside; and resuming must be exact."""
  train(save_every=2, steps=4)
  for rate in (1e30, 1e10):
    with pytest.raises(UserError, match="sound checkpoint, step 4"):
      train(rate=rate, steps=20, max_skipped=3, save_every=2)
    assert saved(tmp_path)[0][-1] == 4
  steps, w = train(save_every=2, steps=6)
  assert steps[-1] == 6
  expected = 1.0
  for _ in range(6):
    expected -= 1e-3 * 4 * expected**3
  assert w == pytest.approx(expected, rel=1e-6)


def test_saves_wait_for_the_end_of_a_streak(train):
  """Catches a save in a streak, and one that is lost."""
  assert train(bad=(4, 5, 6), steps=10)[0] == [7, 10]


def test_a_bad_last_step_can_be_repeated(train):
  """Catches an unsound end that is taken for a whole run."""
  with pytest.raises(UserError, match="raise steps.*sound checkpoint, step 4"):
    train(bad=(5,), save_every=2)
  assert train(bad=(5,), save_every=2, steps=6)[0][-1] == 6


def test_the_learning_rate_that_is_logged_is_the_one_in_use(train, tmp_path):
  """Catches a schedule that goes on in steps that are skipped."""
  _, w = train(bad=(2, 3), rate=0.04, warmup=4)
  rows = [row for row in metrics.read(tmp_path) if "train/loss" in row]
  wanted, expected = [0.01, 0.02, 0.02, 0.02, 0.03], np.ones(3)
  np.testing.assert_allclose(
    [row["train/learning_rate"] for row in rows], wanted, rtol=1e-6
  )
  for rate in np.delete(wanted, [1, 2]):
    expected -= rate * 4 * expected**3
  np.testing.assert_allclose(w, expected, rtol=1e-6)
