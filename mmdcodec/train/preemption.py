"""Preemption: all processes of a run stop at the same step after a SIGTERM."""

import signal
import threading
import types
from typing import Any

import jax
from jax.experimental import multihost_utils

# EX_TEMPFAIL of sysexits.h: unlike exit code 0, it makes a supervisor restart
# the run.
EXIT_CODE = 75


class Preempted(Exception):
  """The run saved its state and stopped on request."""


class PreemptionNotice:
  """Tells after each step whether the run should stop.

  A single process handles SIGTERM itself. Several processes must stop at the
  same step, but the signal may reach them at different steps, or only one of
  them, so the coordination service of `jax.distributed` handles it.
  """

  def __init__(self) -> None:
    """Installs the handler in the main thread of a single process."""
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
    """Whether the run must save after this step and stop."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked

  def close(self) -> None:
    """Restores the previous SIGTERM handler."""
    if self._listens:
      signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
