"""Measures where the wall-clock time of a run goes, while it goes.

A clock counts each moment as one kind of time (`store/goodput.py`): training
steps, unless the loop says otherwise. Waiting for data counts only as far as
the device had nothing left to do, so a thread notes when it finished each step.
"""

import contextlib
import pathlib
import queue
import threading
import time
from collections.abc import Callable, Iterator

import jax

from mmdcodec.errors import (
  StoreGone,
  UnknownServer,
  Unreachable,
  UserError,
)
from mmdcodec.store import goodput as kept

# Seconds between writes of the file, besides those at checkpoints.
_EVERY = 60.0


class Goodput:
  """The account of a run while it runs; process 0 keeps it in the workdir."""

  def __init__(self) -> None:
    """Starts the clock; the time until `begin` is that of starting."""
    self._kind, self._since = "start", time.perf_counter()
    self._started, self._account = time.time(), kept.Account()
    self._device, self._waited = _Device(), 0.0
    # The checkpoint that holds all steps so far, if there is one.
    self._newest: int | None = None
    self._workdir: pathlib.Path | None = None
    self._begun = False
    self._written, self._say = 0.0, lambda line: None

  @contextlib.contextmanager
  def kept(
    self, workdir: pathlib.Path, step: int, say: Callable[[str], None]
  ) -> Iterator[None]:
    """Goes on with the account of a workdir, and says at the end what it is.

    Args:
      workdir: folder of the run.
      step: step at which the run starts or resumes.
      say: called with a line of text at the end.
    """
    if jax.process_index() == 0:
      self._workdir = workdir
    if self._workdir and (before := kept.read(workdir)) is not None:
      now = self._account.seconds
      self._account = before
      self._account.go_on(step, self._started)
      for kind, seconds in now.items():
        self._account.seconds[kind] += seconds
    self._account.ended = False
    self.write()
    try:
      yield
      self._account.ended = True
    except Unreachable:
      raise
    except (KeyboardInterrupt, UserError):
      # The user wanted it, or has to mend something first.
      self._account.ended = True
      raise
    finally:
      self._device.close()
      with contextlib.suppress(OSError, UserError):  # of a full disk
        self.write()
      say(kept.describe(self._account.seconds))

  def begin(self) -> None:
    """The training steps begin."""
    self._begun = True
    self._turn("steps")

  @contextlib.contextmanager
  def restarting(self) -> Iterator[None]:
    """Has a run started again whose store does not answer.

    Raises:
      StoreGone: an error in the block said so.
      UnknownServer: before the first step, one said that nobody knows the name
        of its server. That would be the same at every start.
    """
    try:
      yield
    except Unreachable as error:
      if isinstance(error, UnknownServer) and not self._begun:
        raise
      raise StoreGone(str(error)) from error

  @contextlib.contextmanager
  def on(self, kind: str) -> Iterator[None]:
    """Counts the time of the block as another kind."""
    before = self._turn(kind)
    try:
      yield
    finally:
      self._turn(before)

  @contextlib.contextmanager
  def reading(self) -> Iterator[None]:
    """Counts the block as waiting for data while the device has nothing to do.

    The rest of it counts as a training step.
    """
    before = self._turn("data")
    start = self._since
    yield
    self._turn(before)
    busy = min(self._device.busy_until(self._since), self._since) - start
    if busy > 0:
      self._account.seconds["data"] -= busy
      self._account.seconds["steps"] += busy

  def turned(self) -> tuple[str, float]:
    """What the clock counts, and since when, by `time.perf_counter`."""
    return self._kind, self._since

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """The host only waits for the device in the block."""
    start = time.perf_counter()
    yield
    self._waited += time.perf_counter() - start

  @property
  def host_seconds(self) -> float:
    """Time that the steps so far took the host itself."""
    self._turn(self._kind)
    seconds = self._account.seconds
    return seconds["steps"] + seconds["data"] - self._waited

  def dispatched(self, result: jax.Array) -> None:
    """A step has been given to the device.

    Args:
      result: one of its outputs, which no later step overwrites.
    """
    self._device.watch(result)
    self._newest = None

  def checkpoint(self, step: int) -> None:
    """Notes that a checkpoint holds all training steps so far."""
    self._turn(self._kind)
    self._newest = step
    self.write()

  def shares(self) -> dict[str, float]:
    """Returns the share of each kind in the time so far, over all starts."""
    self._turn(self._kind)
    if time.monotonic() > self._written + _EVERY:
      # A store that cannot be reached for a while ends no training.
      with contextlib.suppress(UserError):
        self.write()
    return kept.shares(self._account.seconds)

  def write(self) -> None:
    """Writes the account to the workdir."""
    self._turn(self._kind)
    if self._newest is not None:
      self._account.mark(self._newest)
    self._written, self._account.updated = time.monotonic(), time.time()
    if self._workdir is not None:
      self._account.write(self._workdir)

  def _turn(self, kind: str) -> str:
    """Counts the time until now, and returns the kind that it was."""
    now = time.perf_counter()
    self._account.seconds[self._kind] += now - self._since
    before, self._kind, self._since = self._kind, kind, now
    return before


class _Device:
  """Notes when the device has finished what it was given."""

  def __init__(self) -> None:
    self._results: queue.SimpleQueue = queue.SimpleQueue()
    self._given = self._done = 0
    self._time = 0.0
    self._thread: threading.Thread | None = None

  def watch(self, result: jax.Array) -> None:
    """Waits for an array, in the thread."""
    if self._thread is None:
      self._thread = threading.Thread(target=self._wait, daemon=True)
      self._thread.start()
    self._given += 1
    self._results.put(result)

  def busy_until(self, now: float) -> float:
    """When the device had done everything, at the latest now."""
    return self._time if self._done == self._given else now

  def _wait(self) -> None:
    while (result := self._results.get()) is not None:
      # The loop, which waits for the same step, raises its errors.
      with contextlib.suppress(Exception):
        result.block_until_ready()
      del result
      self._time = time.perf_counter()
      self._done += 1

  def close(self) -> None:
    """Ends the thread, without waiting for what the device still does."""
    self._results.put(None)
