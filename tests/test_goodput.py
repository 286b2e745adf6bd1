"""Where the wall-clock time of a run goes."""

import argparse
import contextlib
import json
import threading
import time

import pytest
from toy_task import Same, Toy, toy_config

from mmdcodec.cli import info
from mmdcodec.errors import UserError
from mmdcodec.store import goodput as kept
from mmdcodec.store import metrics
from mmdcodec.train import loop, opening
from mmdcodec.train.goodput import Goodput


class Result:
  """What a device computes until somebody says that it is done."""

  def __init__(self):
    self.done, self.noted = threading.Event(), threading.Event()

  def block_until_ready(self):
    """Waits."""
    self.done.wait(10)


def data_seconds(finish_before):
  """Seconds of data in a reading of 30 ms, after or before a step is done."""
  goodput, result = Goodput(), Result()
  goodput.begin()
  goodput.dispatched(result)
  if finish_before:
    result.done.set()
    for _ in range(5000):
      if goodput._device.busy_until(2.0) != 2.0:  # the thread has seen it
        break
      time.sleep(1e-3)
  with goodput.reading():
    time.sleep(0.03)
  result.done.set()
  goodput._device.close()
  seconds = goodput._account.seconds
  assert seconds["steps"] + seconds["data"] >= 0.03
  return seconds["data"]


def test_reading_while_the_device_computes_is_no_waiting():
  """Catches data that is blamed although the device had enough to do."""
  assert data_seconds(finish_before=False) == pytest.approx(0, abs=1e-6)
  assert data_seconds(finish_before=True) >= 0.03


def test_what_a_crash_costs():
  """Catches steps that count twice, and time in which nothing ran."""
  account = kept.Account()
  for step, seconds in ((10, 100.0), (20, 200.0)):
    account.seconds["steps"] = seconds
    account.mark(step)
  account.seconds["steps"], account.updated, account.ended = 250.0, 1e9, False
  account.go_on(20, 1e9 + 60)
  assert account.seconds["steps"] == 200 and account.seconds["down"] == 60
  assert account.seconds["repeated"] == 50
  # The newest checkpoint turned out to be damaged; the run had been ended.
  account.ended = True
  account.go_on(10, 1e9 + 1000)
  assert account.seconds["steps"] == 100 and account.seconds["down"] == 60
  assert account.seconds["repeated"] == 150
  account.go_on(0, 1e9 + 1000)
  assert account.seconds["steps"] == 0 and account.seconds["repeated"] == 250
  assert kept.describe(account.seconds) == (
    "5 min 10 s in all: steps done again 81%, down 19%"
  )


def test_time_before_an_account_is_read(tmp_path):
  """Catches a start that costs nothing, however long it takes."""
  kept.Account(updated=time.time()).write(tmp_path)
  goodput = Goodput()
  with goodput.on("saving"):
    time.sleep(0.01)
  with goodput.kept(tmp_path, 0, str):
    pass
  assert kept.read(tmp_path).seconds["saving"] >= 0.01


def test_a_run_and_its_next_start(tmp_path, monkeypatch, capsys):
  """Catches kinds that the loop forgets, and sums that begin anew."""

  class Late(Same):
    def __next__(self):
      time.sleep(0.02)
      return super().__next__()

  class Slow(Toy):
    def batches(self, *, seed):
      return Late()

    def held_out(self):
      return [next(Same())]

    def evaluate(self, variables, batches):
      time.sleep(0.05)
      return {"loss": 1.0}

  monkeypatch.setattr(opening, "make_task", Slow)

  def crash(step, variables):
    if step == 4:
      raise RuntimeError("out of memory")

  config, lines = toy_config(eval_every=2, save_every=2), []
  with pytest.raises(RuntimeError):
    loop.train(config, tmp_path, log=lines.append, on_evaluation=crash)
  first = kept.read(tmp_path)
  assert not first.ended and list(first.marks) == [2]
  time.sleep(0.05)
  lines.clear()
  loop.train(config, tmp_path, log=lines.append)
  second = kept.read(tmp_path).seconds
  assert second["data"] >= 5 * 0.02 and second["evaluation"] >= 4 * 0.05
  assert min(second.values()) > 0
  lost = first.seconds["steps"] - first.marks[2]
  assert second["repeated"] == pytest.approx(lost) and second["down"] >= 0.05
  assert lines[-1] == kept.describe(second)
  rows = [row for row in metrics.read(tmp_path) if "train/loss" in row]
  for row in rows:
    shares = [row[f"goodput/{kind}"] for kind in kept.KINDS]
    assert sum(shares) == pytest.approx(1)
  assert len(rows) == 5
  # A toy is no model, but the run is described.
  with contextlib.suppress(UserError):
    info.run(argparse.Namespace(path=str(tmp_path)))
  told = capsys.readouterr().out
  assert kept.describe(second) in told and "at step 2\n" in told
  # Nothing to do: no account of it.
  before = (tmp_path / kept.FILE).read_text()
  loop.train(config, tmp_path, log=lines.append)
  assert (tmp_path / kept.FILE).read_text() == before
  # More steps: it had ended as it should, so nothing is lost.
  config.steps = 6
  loop.train(config, tmp_path, log=lines.append)
  third = kept.read(tmp_path).seconds
  assert [third[k] for k in ("repeated", "down")] == [
    second[k] for k in ("repeated", "down")
  ]
  assert third["steps"] > second["steps"]


@pytest.mark.parametrize(
  "content",
  ["", "[]", '{"seconds": 3}', '{"seconds": {"steps": -1}, "marks": {}}'],
)
def test_a_damaged_file_ends_no_run(tmp_path, content):
  (tmp_path / kept.FILE).write_text(content)
  with pytest.warns(match=kept.FILE):
    assert kept.read(tmp_path) is None
  account = kept.Account(marks={3: 1.5}, updated=5.0)
  account.write(tmp_path)
  assert kept.read(tmp_path) == account
  found = json.loads((tmp_path / kept.FILE).read_text())
  found["seconds"]["naps"] = 3.0  # of a later version
  (tmp_path / kept.FILE).write_text(json.dumps(found))
  assert kept.read(tmp_path) == account
