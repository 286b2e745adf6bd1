"""Preemption: a SIGTERM that all processes of a run act on at the same step."""

import signal
import threading
import types
from typing import Any

import jax
from jax.experimental import multihost_utils

# EX_TEMPFAIL of sysexits.h: it tells a supervisor to start the run again, which
# the exit code 0 would not.
EXIT_CODE = 75


class Preempted(Exception):
  """The run was asked to stop, and saved its state first."""


class PreemptionNotice:
  """Tells after each step whether the run was asked to stop.

  A single process listens for SIGTERM itself. Several processes must stop at
  the same step, although the signal may reach them at different steps, or only
  one of them: there the coordination service of `jax.distributed` listens, and
  makes them agree.
  """

  def __init__(self) -> None:
    """Starts to listen: in a single process, and only in its main thread."""
    self._asked = False
    self._before: Any = None
    self._listens = (
      jax.process_count() == 1
      and threading.current_thread() is threading.main_thread()
    )
    if self._listens:
      self._before = signal.signal(signal.SIGTERM, self._ask)

  def _ask(self, signum: int, frame: types.FrameType | None) -> None:
    self._asked = True

  def reached(self, step: int) -> bool:
    """Whether the run must save after this step and end."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked

  def close(self) -> None:
    """Restores the handler of SIGTERM."""
    if self._listens:
      signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
