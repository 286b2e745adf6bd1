"""Runs that hang: their stacks are written, and they end."""

import threading
import time

import pytest
from toy_task import Same, Toy, toy_config

from mmdcodec import platform
from mmdcodec.train import loop, watchdog


class Waiting(Same):
  """The third batch does not come until somebody ends the run."""

  def __init__(self, released):
    self.released, self.count = released, 0

  def __next__(self):
    self.count += 1
    if self.count == 3:
      assert self.released.wait(20)
    return super().__next__()


@pytest.mark.parametrize("command", [True, False])
def test_a_batch_that_does_not_come(tmp_path, monkeypatch, capsys, command):
  """Catches a run that waits for ever, and a notebook that dies."""
  released, ends = threading.Event(), []

  def end(sentence, code):
    ends.append((sentence, code))
    released.set()

  class Hanging(Toy):
    def batches(self, *, seed):
      return Waiting(released)

  monkeypatch.setattr(loop, "make_task", Hanging)
  monkeypatch.setattr(platform, "one_command", command)
  monkeypatch.setattr(watchdog.peers, "end", end)
  if not command:
    threading.Timer(1.5, released.set).start()
  loop.train(toy_config(hang_timeout=0.5), tmp_path, log=str)
  stacks = (tmp_path / "hang-0.txt").read_text()
  assert "test_watchdog.py" in stacks and "in __next__" in stacks
  assert stacks in (said := capsys.readouterr().err)
  if not command:
    assert said.count("mmdcodec: no training step has finished for 0.5 s") == 1
    return
  ((sentence, code),) = ends
  assert code == 75 and "no training step has finished for 0.5 s" in sentence
  assert str(tmp_path / "hang-0.txt") in sentence


class Clock:
  """Stands still, in one kind of time or none."""

  def __init__(self, *times):
    self.times = list(times)

  def stepping_since(self):
    """The next one; the last one stays."""
    return self.times.pop(0) if len(self.times) > 1 else self.times[0]


@pytest.mark.parametrize("seconds, barks", [(0.1, 1), (100.0, 0), (0, 0)])
def test_a_clock_that_stands_still(tmp_path, monkeypatch, seconds, barks):
  """Catches a limit that is not kept, and stacks that are written again."""
  count = []
  monkeypatch.setattr(watchdog.Watchdog, "_bark", lambda self: count.append(1))
  dog = watchdog.Watchdog(Clock(time.perf_counter() - 1), seconds, tmp_path)
  time.sleep(0.3)
  dog.close()
  assert len(count) == barks


def test_other_kinds_of_time(tmp_path, monkeypatch):
  """Catches a long evaluation that ends a run, and one just before a step."""
  count = []
  monkeypatch.setattr(watchdog.Watchdog, "_bark", lambda self: count.append(1))
  now = time.perf_counter()
  # None: compiling, evaluating or saving, and the clock turns twice.
  clock = Clock(None, None, now - 9, now + 9, None, now - 9, None)
  dog = watchdog.Watchdog(clock, 0.1, tmp_path)
  time.sleep(0.3)
  dog.close()
  assert not count and len(clock.times) == 1
