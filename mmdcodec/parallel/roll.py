"""What the processes of a run tell one another, and which of them is gone.

Texts go through the coordination service of `jax.distributed`, not through
devices: it waits for a bounded time, and the processes may have come by
different ways. It ends all processes when one is gone, but says in its log
alone which one. So each process listens at a port and lets all others know:
whoever refuses to be called has ended, and whoever is called and does not hang
up has been stopped, as by SIGSTOP.
"""

import concurrent.futures
import contextlib
import ipaddress
import itertools
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax._src import distributed

from mmdcodec.errors import UserError

# Seconds in which all processes must come to an exchange.
PATIENCE = 300
# Seconds in which a process that is there can be called, and in which it hangs
# up: a thread of it has to run for that, which others may delay.
_RING, _HANG_UP = 2.0, 5.0
# Names of processes in one sentence.
_MOST = 4


class _Entry(NamedTuple):
  """Where a process can be called."""

  process: int
  host: str
  address: str
  port: int

  @property
  def name(self) -> str:
    return f"process {self.process} on {self.host}"


_numbers = itertools.count()
_entries: list[_Entry] = []
# Is closed by the system when the process ends in any way.
_line: socket.socket | None = None
_mine = 0


def me() -> str:
  """Names this process: "process 1 on HOST"."""
  return f"process {jax.process_index()} on {socket.gethostname()}"


def exchange(topic: str, text: str, *, patience: float = PATIENCE) -> list[str]:
  """Tells all processes a text, and returns those of all, in their order.

  All processes must call this the same number of times, in the same order.

  Args:
    topic: what it is about, the same for all.
    text: what this process has to say.
    patience: seconds in which all must come.

  Raises:
    JaxRuntimeError: not all came within that time.
    UserError: the processes were not connected by `mesh.start`.
  """
  if jax.process_count() == 1:
    return [text]
  client: Any = distributed.global_state.client
  if client is None:
    raise UserError(
      "the processes of this run are not connected; call"
      " mmdcodec.parallel.mesh.start() before JAX is used."
    )
  folder = f"mmdcodec/{next(_numbers)}-{topic}"
  client.key_value_set(f"{folder}/{jax.process_index():08d}", text)
  client.wait_at_barrier(folder, round(patience * 1000))
  return [text for _, text in sorted(client.key_value_dir_get(f"{folder}/"))]


def open_line() -> None:
  """Lets all processes know where each can be called.

  Raises:
    JaxRuntimeError: not all came within `PATIENCE` seconds.
  """
  global _line, _mine
  state: Any = distributed.global_state
  if jax.process_count() == 1 or state.client is None:
    return
  address, port = "", 0
  meeting, _, at = state.coordinator_address.rpartition(":")
  meeting = meeting.strip("[]")
  # Without a line, a process cannot be called, and is not named.
  with contextlib.suppress(OSError):
    # The address that this machine has in the network of the run.
    with socket.create_connection((meeting, int(at)), _RING) as call:
      address, family = call.getsockname()[0], call.family
    # The name of a machine may stand for a loopback address there. The others
    # call it by the name then.
    if ipaddress.ip_address(address).is_loopback:
      address = ""
    _line = socket.create_server((address, 0), family=family, backlog=4096)
    port = _line.getsockname()[1]
    threading.Thread(target=_answer, args=(_line,), daemon=True).start()
  found = exchange(
    "lines", f"{socket.gethostname()} {address or meeting} {port}"
  )
  _mine = jax.process_index()
  _entries[:] = [
    _Entry(process, host, address, int(port))
    for process, (host, address, port) in enumerate(map(str.split, found))
  ]


def _answer(line: socket.socket) -> None:
  """Takes calls for as long as the line is open.

  The system holds few that nobody has taken.
  """
  while line.fileno() >= 0:
    try:
      line.accept()[0].close()
    except OSError:  # of too many open files, or the line was closed
      time.sleep(1)


def missing() -> str:
  """Names the processes that have ended; "" if that cannot be known.

  If none has, those that have been stopped.
  """
  with contextlib.suppress(Exception):
    others = [entry for entry in _entries if entry.process != _mine]
    for answers in (_is_there, _hangs_up):
      with concurrent.futures.ThreadPoolExecutor(64) as pool:
        there = list(pool.map(answers, others))
      gone = [e.name for e, yes in zip(others, there, strict=True) if not yes]
      # Where nobody can be called, calls are forbidden.
      if len(gone) >= max(2, len(others)):
        return ""
      if gone:
        return listed(gone)
  return ""


def listed(names: Sequence[str]) -> str:
  """Lists names, the first ones of many."""
  shown = [*names[:_MOST]]
  if len(names) > _MOST:
    shown.append(f"{len(names) - _MOST} more")
  return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def _is_there(entry: _Entry) -> bool:
  """Whether the system of a process takes calls for it."""
  if not entry.port:
    return True
  try:
    socket.create_connection((entry.address, entry.port), _RING).close()
  except OSError:
    return False
  return True


def _hangs_up(entry: _Entry) -> bool:
  """Whether a process that can be called runs."""
  if not entry.port:
    return True
  place = entry.address, entry.port
  try:
    with socket.create_connection(place, _HANG_UP) as call:
      call.recv(1)
  except TimeoutError:
    return False
  except OSError:  # It has ended since, or was in a hurry.
    pass
  return True
