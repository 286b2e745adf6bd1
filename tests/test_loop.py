"""The training loop with a task that takes no time."""

import dataclasses

import jax
import numpy as np
from toy_task import Same, Toy, toy_config

from mmdcodec.store import metrics, starts, weights_and_biases
from mmdcodec.train import loop, opening


def test_phases_and_steps_under_way(tmp_path, monkeypatch):
  """Catches a phase at the wrong step, and a host that runs far ahead.

  Whatever has been given to a device is done before a run can stop, and keeps
  its batch in memory.
  """
  config = toy_config()
  waited, given = [], []
  ready, make = jax.block_until_ready, loop.make_program

  def watched(task, config, mesh):
    program = make(task, config, mesh)

    def step(*arguments):
      # Of the steps before, all but the last one have been waited for.
      pairs = zip(waited, given[:-1], strict=True)
      assert all(one is other for one, other in pairs)
      state, values = program.step(*arguments)
      given.append(values)
      return state, values

    return dataclasses.replace(program, step=step)

  monkeypatch.setattr(loop, "make_program", watched)
  monkeypatch.setattr(opening, "make_task", Toy)

  def wait(x):
    # Others wait for arrays.
    if isinstance(x, dict):
      waited.append(x)
    return ready(x)

  monkeypatch.setattr(jax, "block_until_ready", wait)
  loop.train(config, tmp_path, log=lambda line: None)
  assert len(given) == 5
  rows = [row for row in metrics.read(tmp_path) if "train/early" in row]
  assert [row["train/early"] for row in rows] == [1, 1, 0, 0, 0]


def test_what_is_called_after_each_evaluation(tmp_path, monkeypatch):
  """Catches a call without the weights that were evaluated, or none."""
  evaluated, called = [], []

  class Evaluated(Toy):
    def held_out(self):
      return [next(Same())]

    def evaluate(self, variables, batches):
      evaluated.append(np.array(variables["params"]["w"]))
      return {"loss": 1.0}

  monkeypatch.setattr(opening, "make_task", Evaluated)

  def hear(step, variables):
    called.append((step, np.array(variables["params"]["w"])))

  config = toy_config(eval_every=2)
  loop.train(config, tmp_path, log=lambda line: None, on_evaluation=hear)
  assert [step for step, _ in called] == [2, 4, 5]
  for (_, found), expected in zip(called, evaluated, strict=True):
    np.testing.assert_array_equal(found, expected)


def test_a_step_ends_before_an_evaluation(tmp_path, monkeypatch):
  """Catches the time of a step that counts as that of what follows."""
  events, ready = [], jax.block_until_ready

  class Evaluated(Toy):
    def held_out(self):
      return [next(Same())]

    def evaluate(self, variables, batches):
      events.append("evaluated")
      return {"loss": 1.0}

  def wait(x):
    # The state's step, not the metrics of the step before.
    if isinstance(x, jax.Array):
      events.append(int(x))
    return ready(x)

  monkeypatch.setattr(opening, "make_task", Evaluated)
  monkeypatch.setattr(jax, "block_until_ready", wait)
  config = toy_config(eval_every=2, save_every=4, log_every=100)
  loop.train(config, tmp_path, log=lambda line: None)
  assert events == [2, "evaluated", 4, "evaluated", 5, "evaluated"]


def test_all_starts_of_a_run_are_one_on_a_board(tmp_path, monkeypatch):
  """Catches a resumed run that begins a new one, or is not asked for."""
  opened = []

  class Board:
    def __init__(self, project, run, **options):
      opened.append((project, run, options["name"]))

    def write(self, step, values):
      opened.append(step)

    def close(self):
      """Nothing to close."""

  monkeypatch.setattr(weights_and_biases, "Board", Board)
  monkeypatch.setattr(weights_and_biases, "check", lambda project: None)
  monkeypatch.setattr(opening, "make_task", Toy)
  config, run = toy_config(wandb_project="music"), None
  for steps in (5, 10):
    config.steps = steps
    loop.train(config, tmp_path / "first", log=lambda line: None)
    (project, run, name), *written = opened
    assert (project, name) == ("music", "first")
    assert written == list(range(steps - 4, steps + 1))
    assert run == starts.read(tmp_path / "first")[0]["run"]
    opened.clear()
  loop.train(toy_config(), tmp_path / "second", log=lambda line: None)
  assert not opened
