"""Preemption: all processes of a run stop at the same step after a signal.

SIGTERM and SIGINT (Ctrl-C) let the step that is under way finish and its state
be saved. An exception inside a save, as Python raises for SIGINT, could leave
the threads that write waiting for each other. A second SIGINT ends a command
at once, even if it is compiling; in other programs (a notebook, for example) it
has the handler from before, which raises KeyboardInterrupt.
"""

import os
import signal
import sys
import threading
import types
from typing import Any

import jax
from jax.experimental import multihost_utils

from mmdcodec import platform

# EX_TEMPFAIL of sysexits.h: unlike exit code 0, it makes a supervisor restart
# the run.
EXIT_CODE = 75
# Of a process that SIGINT ended, as shells report it.
INTERRUPTED = 130


class Preempted(Exception):
  """The run saved its state and stopped on request."""


class PreemptionNotice:
  """Tells after each step whether the run should stop.

  A single process handles SIGTERM itself. Several processes must stop at the
  same step, but the signal may reach them at different steps, or only one of
  them, so the coordination service of `jax.distributed` handles it. SIGINT then
  becomes a SIGTERM.

  Attributes:
    asked: whether a signal has reached this process.
    interrupted: whether it was SIGINT.
  """

  def __init__(self) -> None:
    """Installs the handlers if this is the main thread."""
    self.asked, self.interrupted = False, False
    self._together = jax.process_count() > 1
    self._before: dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread():
      return
    numbers = [signal.SIGTERM] * (not self._together)
    # A script that starts a run in the background has it ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
      numbers.append(signal.SIGINT)
    if not numbers:
      return
    self._before = {n: signal.signal(n, self._ask) for n in numbers}
    # Python calls handlers in the main thread only, and not while that compiles
    # or waits for the device. The bytes arrive at once.
    reading, self._writing = os.pipe()
    os.set_blocking(self._writing, False)
    self._wakeup = signal.set_wakeup_fd(
      self._writing, warn_on_full_buffer=False
    )
    self._thread = threading.Thread(
      target=self._count, args=(reading,), daemon=True
    )
    self._thread.start()

  def _ask(self, signum: int, frame: types.FrameType | None) -> None:
    self.asked = True
    if signum == signal.SIGINT:
      self.interrupted = True
      if not platform.one_command:
        signal.signal(signum, self._before[signum] or signal.SIG_DFL)

  def _count(self, reading: int) -> None:
    """Says what happens at the first SIGINT; the next ends a command."""
    told = False
    with open(reading, "rb", buffering=0) as numbers:
      while number := numbers.read(1):
        if number[0] != signal.SIGINT:
          continue
        if told and not platform.one_command:
          continue  # the handler from before acts
        if told:
          print("mmdcodec: ended at once", file=sys.stderr, flush=True)
          os._exit(INTERRUPTED)
        self.asked = self.interrupted = told = True
        print(
          "mmdcodec: stopping after this step, when its state is saved; Ctrl-C"
          " again ends at once",
          file=sys.stderr,
          flush=True,
        )
        if self._together:
          os.kill(os.getpid(), signal.SIGTERM)

  def reached(self, step: int) -> bool:
    """Whether the run must save after this step and stop."""
    if self._together:
      return multihost_utils.reached_preemption_sync_point(step)
    return self.asked

  def error(self, step: int) -> BaseException:
    """Returns what ends the run after its state was saved."""
    return KeyboardInterrupt() if self.interrupted else Preempted(step)

  def close(self) -> None:
    """Restores the previous handlers."""
    if self._before:
      signal.set_wakeup_fd(self._wakeup)
      for number, handler in self._before.items():
        signal.signal(number, handler or signal.SIG_DFL)
      os.close(self._writing)
      self._thread.join()
