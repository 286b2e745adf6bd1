"""Connects the processes of a run, and ends them if one is gone.

When a process dies or cannot be reached, the coordination service of
`jax.distributed` ends the others: C++ code calls abort(), with a stack trace.
Here a handler of that signal says in one sentence what happened, and ends the
process with an exit code.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import jax

from mmdcodec.errors import UserError

# Seconds in which all processes must have been started.
PATIENCE = 300
# Seconds without a sign of life after which a process counts as dead.
SILENCE = 100
# Like every mistake of the user.
NOT_CONNECTED = 2
# EX_TEMPFAIL of sysexits.h: it makes a supervisor restart the run.
GONE = 75
LOST = (
  "another process of this run has died or cannot be reached; see its output"
  " (TF_CPP_MIN_LOG_LEVEL=0 shows more), and start all of them again: they go"
  " on where they were."
)
# Not every abort() is the coordination service's.
ABORTED = (
  "this process was ended by its libraries, most often because another process"
  " is gone; see the output of all (TF_CPP_MIN_LOG_LEVEL=0 shows more), and"
  " start all of them again: they go on where they were."
)
# Words in the errors of collective operations whose peer is gone.
_SIGNS = ("gloo", "coordination service", "heartbeat", "barrier", "connection")

# The handlers that C code may call: ctypes does not keep them alive.
_handlers: list[Any] = []


def connect(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Connects this process to the others; ends it if that fails.

  Args:
    coordinator: `host:port` of process 0.
    num_processes: number of processes.
    process_id: index of this process, from 0.

  Raises:
    UserError: an argument is missing or not possible.
  """
  coordinator, num_processes, process_id = check(
    coordinator, num_processes, process_id
  )
  _on_abort(
    f"process {process_id} of {num_processes} found no run at {coordinator}"
    f" within {PATIENCE} s, or another one took its place; start all within"
    " that time, each with its own --process_id, from 0 to"
    f" {num_processes - 1}.",
    NOT_CONNECTED,
  )
  jax.distributed.initialize(
    coordinator,
    num_processes,
    process_id,
    initialization_timeout=PATIENCE,
    heartbeat_timeout_seconds=SILENCE,
  )
  watch()


def watch() -> None:
  """Prepares a connected process for the loss of another one."""
  _on_abort(ABORTED, GONE)


def check(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> tuple[str, int, int]:
  """Checks the arguments of `connect` and returns them.

  Raises:
    UserError: one of them is missing or not possible.
  """
  if coordinator is None or num_processes is None or process_id is None:
    raise UserError(
      "--coordinator, --num_processes and --process_id belong together; give"
      " all three of them or none."
    )
  host, _, port = coordinator.rpartition(":")
  digits = port.isascii() and port.isdecimal()
  if not (host and digits and 0 < int(port) < 2**16):
    raise UserError(
      f"--coordinator is {coordinator!r}; expected HOST:PORT of process 0, such"
      " as 10.0.0.1:1234."
    )
  if num_processes < 1:
    raise UserError(f"--num_processes is {num_processes}; expected at least 1.")
  if not 0 <= process_id < num_processes:
    raise UserError(
      f"--process_id is {process_id}; expected 0 to {num_processes - 1}, a"
      f" different one for each of the {num_processes} processes."
    )
  return coordinator, num_processes, process_id


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Ends this process at once if an error in the block concerns its peers.

  Collective operations fail in some processes before the coordination service
  notices, and an ordinary exit waits minutes for a process that is gone. If
  this process fails by itself, its exit does not wait for the others.
  """
  try:
    yield
  except Exception as error:
    if jax.process_count() > 1:
      lost = isinstance(error, jax.errors.JaxRuntimeError | TimeoutError)
      if lost and any(sign in str(error).lower() for sign in _SIGNS):
        _end(LOST, GONE)
      # Runs before the function of JAX that waits for the others.
      mistake = isinstance(error, UserError | OSError)
      atexit.register(_leave, 2 if mistake else 1)
    raise


def _leave(code: int) -> None:
  """Ends this process without the usual wait for the others."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(code)


def _on_abort(sentence: str, code: int) -> None:
  """Replaces the next abort() of C++ code by a sentence and an exit code."""
  if os.name != "posix":
    return

  def end(signum: int) -> None:
    _end(sentence, code)

  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
  _handlers.append(handler)
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  libc.signal.restype = ctypes.c_void_p
  # Not `signal.signal`: its handlers run in the main thread, after abort().
  libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


def _end(sentence: str, code: int) -> None:
  """Ends the process at once, from any thread."""
  os.write(2, f"mmdcodec: {sentence}\n".encode())
  _leave(code)
