"""Runs that hang: their stacks are written, and they end."""

import threading
import time

import pytest
from toy_task import Same, Toy, toy_config

from mmdcodec import platform
from mmdcodec.store import goodput as kept
from mmdcodec.train import loop, opening, watchdog


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

  def write(self, stacks):
    written(self, stacks)
    if not command:
      released.set()

  class Hanging(Toy):
    def batches(self, *, seed):
      return Waiting(released)

  monkeypatch.setattr(opening, "make_task", Hanging)
  monkeypatch.setattr(platform, "one_command", command)
  monkeypatch.setattr(watchdog, "LONGER", 1000)  # A busy machine compiles.
  monkeypatch.setattr(watchdog.peers, "end", end)
  written = watchdog.Watchdog._write
  monkeypatch.setattr(watchdog.Watchdog, "_write", write)
  loop.train(toy_config(hang_timeout=0.5), tmp_path, log=str)
  stacks = (tmp_path / "hang-0.txt").read_text()
  assert "test_watchdog.py" in stacks and "in __next__" in stacks
  assert stacks in (said := capsys.readouterr().err)
  if not command:
    assert said.count("mmdcodec: no batch has come for 0.5 s") == 1
    return
  ((sentence, code),) = ends
  assert code == 75 and "no batch has come for 0.5 s" in sentence
  assert str(tmp_path / "hang-0.txt") in sentence


class Stop(Exception):
  """Ends a run."""


def test_a_start_that_hangs(tmp_path, monkeypatch):
  """Catches a run that is watched from its first step on alone."""
  released, ends = threading.Event(), []

  def end(sentence, code):
    ends.append((sentence, code))
    released.set()

  class Hanging(Toy):
    def batches(self, *, seed):
      released.wait(20)
      raise Stop

  monkeypatch.setattr(opening, "make_task", Hanging)
  monkeypatch.setattr(platform, "one_command", True)
  monkeypatch.setattr(watchdog, "LONGER", 1)
  monkeypatch.setattr(watchdog, "LEAST", 0)
  monkeypatch.setattr(watchdog.peers, "end", end)
  with pytest.raises(Stop):
    loop.train(toy_config(hang_timeout=0.2), tmp_path, log=str)
  sentence, code = ends[0]
  assert code == 75 and "starting has not finished for 0.2 s" in sentence


class Clock:
  """Shows what it is told to."""

  def __init__(self, *turns):
    self.turns, self.looks = list(turns), 0

  def turned(self):
    """The next one; the last one stays."""
    self.looks += 1
    return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]


@pytest.fixture
def watched(tmp_path, monkeypatch):
  """Returns a function: what a watchdog of a time limit says of a clock."""

  def watch(clock, seconds, least=0.0):
    barks = []
    bark = lambda self, hang: barks.append(hang)
    monkeypatch.setattr(watchdog.Watchdog, "_bark", bark)
    monkeypatch.setattr(watchdog, "LEAST", least)
    monkeypatch.setattr(watchdog, "_LOOK", 0.01)
    dog = watchdog.Watchdog(clock, seconds, tmp_path)
    # Two looks find that it stands still; the others must not tell it again.
    while seconds and clock.looks < 6:
      time.sleep(0.01)
    dog.close()
    return barks

  return watch


@pytest.mark.parametrize(
  "kind, seconds, bark",
  [
    ("steps", 0.1, "no training step has finished for 0.1 s"),
    ("data", 0.1, "no batch has come for 0.1 s"),
    ("steps", 100.0, None),
    ("steps", 0, None),
    # As long as a step may take, and eight times as long.
    ("saving", 10.0, None),
    ("saving", 0.1, "saving has not finished for 0.8 s"),
    ("evaluation", 0.1, "the evaluation has not finished for 0.8 s"),
    ("start", 0.1, "starting has not finished for 0.8 s"),
    ("compile", 0, None),
  ],
)
def test_a_clock_that_stands_still(watched, kind, seconds, bark):
  """Catches a limit that is not kept, and stacks that are written again."""
  clock = Clock((kind, time.perf_counter() - 1))
  assert watched(clock, seconds) == [bark] * (bark is not None)


def test_work_of_few_turns_has_half_an_hour_at_least(watched):
  """Catches a short limit of a step that ends a run while it compiles."""
  clock = Clock(("compile", time.perf_counter() - 1000))
  assert not watched(clock, 0.1, least=1800.0)


def test_all_kinds_of_a_run_have_words():
  """Catches a watchdog that ends with a KeyError in its own thread."""
  assert {*watchdog._HANGS} == {*kept.KINDS} - {"repeated", "down"}


def test_a_clock_that_turns(watched):
  """Catches a long evaluation that ends a run just before a step."""
  now = time.perf_counter()
  # The clock turns in two steps, and a look may come between them.
  torn, sound = ("steps", now - 9), ("evaluation", now + 9)
  clock = Clock(sound, torn, ("steps", now + 9), sound, torn, sound)
  assert not watched(clock, 0.1) and len(clock.turns) == 1
