"""Ends a run that hangs.

A lost device, a deadlock or a batch that never comes would leave a slice
waiting for ever. A thread watches the clock of `goodput.py`, which turns
several times in each step: if it has stood still for `hang_timeout` seconds,
the stacks of all threads are written, and the process ends with the code that
makes a supervisor start the run again. Starting (and so restoring), compiling,
evaluating and saving are one turn each, however much there is to do, and have
`LONGER` times as long, and at least `LEAST` seconds.
"""

import contextlib
import faulthandler
import pathlib
import sys
import tempfile
import threading
import time

import jax

from mmdcodec import platform
from mmdcodec.errors import UserError
from mmdcodec.parallel import peers
from mmdcodec.train.goodput import Goodput

# Seconds. One host may compile while the others wait for its first step.
DEFAULT = 1800.0
LONGER = 8
LEAST = 1800.0
# What a clock that stands still was counting.
_HANGS = {
  "steps": "no training step has finished",
  "data": "no batch has come",
  "compile": "compiling has not finished",
  "evaluation": "the evaluation has not finished",
  "saving": "saving has not finished",
  "start": "starting has not finished",
}
# Seconds between two looks at the clock, and in which the file may be written.
_LOOK, _WRITE = 5.0, 30.0


class Watchdog:
  """Watches a run until `close`."""

  def __init__(self, goodput: Goodput, seconds: float, workdir: pathlib.Path):
    """Starts the thread.

    Args:
      goodput: the clock.
      seconds: time limit of a training step; 0 for none, of anything.
      workdir: folder for the stacks, `hang-<process>.txt`.
    """
    self._goodput, self._seconds = goodput, seconds
    self._file = workdir / f"hang-{jax.process_index()}.txt"
    self._look = min(_LOOK, seconds / 10)
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    if seconds:
      self._thread.start()

  def _watch(self) -> None:
    # The clock does not turn in one step, so it is right if it is seen twice.
    seen: tuple[str, float] | None = None
    told: tuple[str, float] | None = None
    while not self._ended.wait(self._look):
      kind, since = turned = self._goodput.turned()
      limit = self._seconds
      if kind not in ("steps", "data"):
        limit = max(LEAST, LONGER * limit)
      if time.perf_counter() - since < limit or turned == told:
        seen = None
      elif turned == seen:
        told = turned
        self._bark(f"{_HANGS[kind]} for {limit:g} s")
      else:
        seen = turned

  def _bark(self, hang: str) -> None:
    """Writes the stacks of all threads, and ends a command."""
    with tempfile.TemporaryFile() as file:
      faulthandler.dump_traceback(file)
      file.seek(0)
      stacks = file.read()
    print(stacks.decode(errors="replace"), file=sys.stderr, flush=True)
    # What hangs may be the disk or the store of the workdir.
    writing = threading.Thread(target=self._write, args=(stacks,), daemon=True)
    writing.start()
    writing.join(_WRITE)
    sentence = (
      f"{hang}; the stacks of all threads are above and in {self._file}"
    )
    if not platform.one_command:
      print(f"mmdcodec: {sentence}.", file=sys.stderr, flush=True)
      return
    if jax.process_count() > 1:
      # Those who wait for the same write theirs before they find this one gone.
      time.sleep(3 * self._look)
    peers.end(
      f"{sentence}; start the run again: it goes on from its last checkpoint"
      " (--config.hang_timeout=SECONDS is the time limit of a step; other work"
      f" has {LONGER} times as long, at least {LEAST:g} s).",
      peers.GONE,
    )

  def _write(self, stacks: bytes) -> None:
    with contextlib.suppress(OSError, UserError):
      self._file.write_bytes(stacks)

  def close(self) -> None:
    """Ends the thread."""
    self._ended.set()
