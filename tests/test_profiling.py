"""When steps are traced; what a trace holds is in test_train_processes.py.

The tracer crashes in the process of the tests once the TPU compiler is loaded.
"""

import os
import signal
import threading

import jax
import pytest

from mmdcodec.errors import Unreachable
from mmdcodec.train import profiling


@pytest.fixture
def traces(monkeypatch):
  """What is traced: "start" and "stop" of the profiler, and steps between."""
  found = []
  monkeypatch.setattr(
    jax.profiler,
    "start_trace",
    lambda folder, profiler_options: found.append(folder),
  )
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found.append("end"))
  return found


def steps(profiler, first, last, traces):
  """Takes the steps from one to another."""
  for step in range(first, last):
    profiler.before(step)
    traces.append(step)
    profiler.after(step + 1, None)


def test_traces_as_planned_and_on_demand(tmp_path, traces, monkeypatch):
  """Catches a signal that is missed or ends the process; a file that stays."""
  before, lines = signal.getsignal(signal.SIGUSR1), []
  monkeypatch.setattr(profiling, "_EVERY", 0.0)
  profiler = profiling.Profiler(dict(start=1, steps=2), tmp_path, lines.append)
  folder = str(tmp_path / "profile")
  profiler.begin(7)
  steps(profiler, 7, 11, traces)
  assert traces == [7, folder, 8, 9, "end", 10]
  traces.clear()
  os.kill(os.getpid(), signal.SIGUSR1)
  steps(profiler, 11, 15, traces)
  assert traces == [folder, 11, 12, "end", 13, 14]
  traces.clear()
  (tmp_path / "PROFILE").touch()
  steps(profiler, 15, 16, traces)
  assert not (tmp_path / "PROFILE").exists()
  profiler.close()  # the run ends first
  assert traces == [folder, 15, "end"]
  assert signal.getsignal(signal.SIGUSR1) == before
  assert lines[1] == f"profile: steps 12 to 13, to {folder}"


@pytest.mark.parametrize("kind", [OSError, ValueError, Unreachable])
def test_a_full_disk_ends_no_run(tmp_path, traces, monkeypatch, kind):
  """Catches a run that dies of its profile."""

  def refuse():
    raise kind("No space left on device")

  monkeypatch.setattr(jax.profiler, "stop_trace", refuse)
  lines = []
  profiler = profiling.Profiler(dict(start=0, steps=1), tmp_path, lines.append)
  profiler.begin(0)
  steps(profiler, 0, 3, traces)
  profiler.close()
  assert lines[1:] == ["no profile: No space left on device"]


@pytest.mark.parametrize("kind", [RuntimeError, OSError, ValueError])
def test_a_profile_that_cannot_begin_ends_no_run(tmp_path, monkeypatch, kind):
  """Catches a run that dies of being looked at."""

  def refuse(folder, profiler_options):
    raise kind("Only one profile may be run at a time.")

  monkeypatch.setattr(jax.profiler, "start_trace", refuse)
  lines = []
  # In another thread, which cannot take signals.
  made = []
  thread = threading.Thread(
    target=lambda: made.append(
      profiling.Profiler(dict(start=0, steps=1), tmp_path, lines.append)
    )
  )
  thread.start()
  thread.join()
  made[0].begin(0)
  steps(made[0], 0, 3, [])
  made[0].close()
  assert lines == ["no profile: Only one profile may be run at a time."]
