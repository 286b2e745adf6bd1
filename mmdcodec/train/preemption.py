"""Notice of the end: SIGTERM, agreed on by all processes of a run."""

import signal
import threading

import jax
from jax.experimental import multihost_utils

# sysexits.h EX_TEMPFAIL: tells a babysitter to start the run again, which the
# exit code 0 would not.
EXIT_CODE = 75


class Preempted(Exception):
  """The run was asked to stop, and saved its state first."""


class PreemptionNotice:
  """Says after each step whether the run was asked to stop.

  Alone, a process listens for SIGTERM itself. Several must stop at the same
  step, although the signal reaches them at different ones or only one of them:
  there the coordination service of `jax.distributed` listens and agrees on it.
  """

  def __init__(self):
    """Starts to listen (a single process only, and only its main thread)."""
    self._asked = False
    self._before = None
    self._listens = (
      jax.process_count() == 1
      and threading.current_thread() is threading.main_thread()
    )
    if self._listens:
      self._before = signal.signal(signal.SIGTERM, self._ask)

  def _ask(self, signum, frame):
    self._asked = True

  def reached(self, step: int) -> bool:
    """True if the run is to save at this step and end."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked

  def close(self) -> None:
    """Gives SIGTERM back to whoever had it."""
    if self._listens:
      signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
