"""Locks of folders in object stores: an object that its owner keeps writing.

The store creates the object `.lock` only if there is none, so one process gets
it. It says who that is, and changes every `BEAT` seconds. Whoever finds it
unchanged for `PATIENCE` seconds takes it over, and at once if the owner was a
process of the same machine that is dead. An owner that was held up longer than
that, and finds the lock in other hands, ends its command: what it would write
is another's by now.
"""

import contextlib
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from typing import NamedTuple

from mmdcodec import platform
from mmdcodec.errors import UserError
from mmdcodec.store.urls import Url

FILE = ".lock"
# Seconds between two signs of life, and without one until an owner is dead.
BEAT, PATIENCE = 10.0, 60.0

# What distinguishes the locks that this process has.
_mine: set[str] = set()


class Owner(NamedTuple):
  """What the object says.

  Attributes:
    host: name of the machine, and of its start.
    pid: number of the process.
    token: distinguishes the owner from all others.
    beat: changes while the owner is alive.
  """

  host: str
  pid: int
  token: str
  beat: int

  @property
  def dead(self) -> bool:
    """Whether the owner was a process of this machine that has ended."""
    if self.host != _host() or self.token in _mine:
      return False
    # A container that starts again gives its processes the same numbers.
    if self.pid == os.getpid():
      return True
    try:
      os.kill(self.pid, 0)
    except ProcessLookupError:
      return True
    except OSError:
      pass
    return False


class RemoteLock:
  """A lock that this process has, until `release`."""

  def __init__(self, place: Url, owner: Owner):
    """Begins to give signs of life."""
    self._place, self._owner = place, owner
    self._ended = threading.Event()
    _mine.add(owner.token)
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._thread.start()

  def release(self) -> None:
    """Lets other processes have the lock.

    If the store cannot be reached, they have it after `PATIENCE` seconds.
    """
    self._ended.set()
    self._thread.join()
    with contextlib.suppress(UserError):
      found = read(self._place)
      if found is not None and found.token == self._owner.token:
        self._place.unlink(missing_ok=True)
    _mine.discard(self._owner.token)

  def _beat(self) -> None:
    while not self._ended.wait(BEAT):
      try:
        found = read(self._place)
        if found is None or found.token != self._owner.token:
          self._give_up(found)
          return
        self._owner = self._owner._replace(beat=self._owner.beat + 1)
        _write(self._place, self._owner)
      except UserError:
        continue  # The store cannot be reached; perhaps next time.

  def _give_up(self, found: Owner | None) -> None:
    who = "deleted" if found is None else f"taken over by {found.host}"
    print(
      f"mmdcodec: {self._place} was {who}: this process gave no sign of life"
      f" for {PATIENCE:g} s, and another may write there now.",
      file=sys.stderr,
      flush=True,
    )
    if platform.one_command:
      os._exit(1)


def take(folder: Url) -> RemoteLock | None:
  """Takes the lock of a folder.

  Returns:
    The lock; None if another process, or this one, has it already.

  Raises:
    UserError: the store cannot be reached, or refuses.
  """
  place = folder / FILE
  owner = Owner(_host(), os.getpid(), secrets.token_hex(8), 0)
  before = read(place)
  if before is not None:
    if before.token in _mine or not (before.dead or _is_silent(place, before)):
      return None
    # Another process may have found the same dead owner, and have been faster.
    if read(place) != before:
      return None
    place.unlink(missing_ok=True)
  if not place.create(_text(owner)):
    return None
  if before is not None:
    # Or it may be a little late.
    time.sleep(1.0)
  found = read(place)
  if found is None or found.token != owner.token:
    return None
  return RemoteLock(place, owner)


def read(place: Url) -> Owner | None:
  """Reads who has a lock; None if nobody has."""
  try:
    text = place.read_text(errors="replace")
  except FileNotFoundError:
    return None
  try:
    host, pid, token, beat = text.split()
    return Owner(host, int(pid), token, int(beat))
  except ValueError:
    return Owner("another machine", 0, text[:40], 0)


def refusal(folder: Url) -> str:
  """Says who has the lock of a folder, and what to do."""
  owner = read(folder / FILE)
  who = f" ({owner.pid} on {owner.host.partition('/')[0]})" if owner else ""
  return (
    f"another process{who} writes to {folder}; wait until it ends, or give"
    " another folder."
  )


def _is_silent(place: Url, before: Owner) -> bool:
  """Waits for a sign of life; returns whether there was none."""
  end = time.monotonic() + PATIENCE
  while time.monotonic() < end:
    time.sleep(min(BEAT / 4, PATIENCE / 4))
    if read(place) != before:
      return False
  return True


def _write(place: Url, owner: Owner) -> None:
  place.write_bytes(_text(owner))


def _text(owner: Owner) -> bytes:
  return " ".join(map(str, owner)).encode() + b"\n"


def _host() -> str:
  """Names this machine, and its start: machines may have the same name."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  except OSError:
    boot = ""
  return f"{socket.gethostname()}/{boot[:8]}"
