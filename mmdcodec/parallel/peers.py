"""Connects the processes of a run, and ends them if one is gone.

When a process dies or cannot be reached, the coordination service of
`jax.distributed` ends the others: C++ code calls abort(), with a stack trace.
Here a handler of that signal says in one sentence what happened, with the name
of the process if `roll.py` finds it, and ends the process with an exit code.
Trainings also ask that service whether to stop (`train/preemption.py`);
all other work ends at SIGTERM at once.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from mmdcodec.errors import UserError
from mmdcodec.parallel import agreement, roll

# Seconds in which all processes must have been started.
PATIENCE = 300
# Seconds without a sign of life after which a process counts as dead. The
# others have ended within a minute.
SILENCE = 45
# EX_TEMPFAIL of sysexits.h: it makes a supervisor restart the run, in which a
# machine that came late is there.
GONE = 75
LOST = (
  "{} of this run has died or cannot be reached; see its output"
  " (TF_CPP_MIN_LOG_LEVEL=0 shows more), and start all of them again: they go"
  " on where they were."
)
# Not every abort() is the coordination service's.
ABORTED = (
  "this process was ended by its libraries, most often because another process"
  " is gone; see the output of all (TF_CPP_MIN_LOG_LEVEL=0 shows more), and"
  " start all of them again: they go on where they were."
)
STOPPED = (
  "stopped by SIGTERM; start the same command again, with --force if it writes"
  " anew what is there."
)
# Seconds in which others, which have lost the same process, can still call.
_STAY = 1.0
# The same in Kubernetes, which looks at the pods of a job about once a second:
# if it sees `GONE` together with the code of a failure, it starts the run again
# without counting that.
_STAY_IN_PODS = 10.0
# Words in the errors of collective operations whose peer is gone.
_SIGNS = ("gloo", "coordination service", "heartbeat", "barrier", "connection")
# How errors of this process begin. They may name any operation of its program,
# such as an optimization-barrier.
_OWN = ("RESOURCE_EXHAUSTED: ", "INVALID_ARGUMENT: ")

# The handlers that C code may call: ctypes does not keep them alive.
_handlers: list[Any] = []
# Taken by the thread that ends the process, and not given back.
_ending = threading.RLock()


def connect(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  timeout: int | None = None,
) -> None:
  """Connects this process to the others; ends it if that fails.

  Args:
    coordinator: `host:port` of process 0.
    num_processes: number of processes.
    process_id: index of this process, from 0.
    timeout: seconds in which all processes must have been started; `PATIENCE`
      by default.

  Raises:
    UserError: an argument is missing or not possible.
  """
  coordinator, num_processes, process_id = check(
    coordinator, num_processes, process_id
  )
  timeout = check_timeout(timeout)
  _initialize(
    f"process {process_id} of {num_processes} did not meet all others at"
    f" {coordinator} within {timeout} s, or another one took its place; start"
    " all within that time (--initialization-timeout=SECONDS), each with its"
    f" own --process-id, from 0 to {num_processes - 1}.",
    timeout,
    coordinator_address=coordinator,
    num_processes=num_processes,
    process_id=process_id,
  )


def detect(timeout: int | None = None) -> None:
  """Connects this process to the others if it is one of a cluster.

  Args:
    timeout: as for `connect`.

  Raises:
    UserError: what the cluster says about this process is not possible.
  """
  timeout = check_timeout(timeout)
  try:
    _initialize(
      "this process did not meet all others of its cluster within"
      f" {timeout} s; start all within that time"
      " (--initialization-timeout=SECONDS).",
      timeout,
    )
  except ValueError as error:
    # Not a cluster.
    if "coordinator_address" in str(error):
      return
    raise UserError(
      f"what this cluster says about its processes is not possible ({error});"
      " mend its variables, or give --coordinator, --num-processes and"
      " --process-id."
    ) from None


def _initialize(failure: str, timeout: int, **arguments: Any) -> None:
  """Connects this process, and prepares it for the loss of another one.

  Args:
    failure: what to say if it cannot be connected.
    timeout: seconds in which all processes must have been started.
    **arguments: of `jax.distributed.initialize`.
  """
  undo = _on_abort(functools.partial(end, failure, GONE))
  try:
    jax.distributed.initialize(
      initialization_timeout=timeout,
      heartbeat_timeout_seconds=SILENCE,
      **arguments,
    )
  except (ValueError, RuntimeError):
    undo()
    raise
  _on_abort(functools.partial(_lost, ABORTED))
  with together():
    roll.open_line()


def check_timeout(timeout: int | None) -> int:
  """Checks a time limit of the start, and returns it or the default.

  Raises:
    UserError: it is not positive.
  """
  if timeout is None:
    return PATIENCE
  if timeout < 1:
    raise UserError(
      f"--initialization-timeout is {timeout}; expected seconds, at least 1."
    )
  return timeout


def check(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> tuple[str, int, int]:
  """Checks the arguments of `connect` and returns them.

  Raises:
    UserError: one of them is missing or not possible.
  """
  if coordinator is None or num_processes is None or process_id is None:
    raise UserError(
      "--coordinator, --num-processes and --process-id belong together; give"
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
    raise UserError(f"--num-processes is {num_processes}; expected at least 1.")
  if not 0 <= process_id < num_processes:
    raise UserError(
      f"--process-id is {process_id}; expected 0 to {num_processes - 1}, a"
      f" different one for each of the {num_processes} processes."
    )
  return coordinator, num_processes, process_id


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Ends this process at once if an error in the block concerns its peers.

  Collective operations fail in some processes before the coordination service
  notices, and an ordinary exit waits minutes for a process that is gone. If
  this process fails by itself, its exit does not wait for the others; if all
  fail with one error, none leaves before the others have said it.
  """
  try:
    yield
  except Exception as error:
    if jax.process_count() > 1:
      if _is_loss(error):
        _lost(LOST.format("another process"))
      if isinstance(error, agreement.Disagreement):
        raise
      # Runs before the function of JAX that waits for the others.
      code = 2 if isinstance(error, OSError) else 1
      atexit.register(_leave, getattr(error, "exit_code", code))
    raise


@contextlib.contextmanager
def ending_at_sigterm() -> Iterator[None]:
  """Ends this process if it gets a SIGTERM in the block, with `GONE`.

  `mesh.start` belongs into the block: otherwise `jax.distributed` keeps the
  signal for those who ask it. Does nothing outside of the main thread, or where
  the program has a handler of its own.
  """
  main = threading.current_thread() is threading.main_thread()
  free = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  if os.name != "posix" or not (main and free):
    yield
    return
  config: Any = jax.config
  service = config.jax_enable_preemption_service
  config.update("jax_enable_preemption_service", False)
  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  # Python calls handlers in the main thread only, and not while that compiles
  # or waits for other processes. The bytes arrive at once.
  before = signal.signal(signal.SIGTERM, lambda *_: None)
  wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
  thread = threading.Thread(target=_await_sigterm, args=(reading,), daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGTERM, before)
    os.close(writing)
    thread.join()
    config.update("jax_enable_preemption_service", service)


def _await_sigterm(reading: int) -> None:
  """Ends the process once SIGTERM is among the signals that it gets."""
  with open(reading, "rb", buffering=0) as numbers:
    while number := numbers.read(1):
      if number[0] == signal.SIGTERM:
        end(STOPPED, GONE, stay=False)


def _is_loss(error: Exception) -> bool:
  """Whether an error says that another process is gone."""
  words = str(error)
  if words.startswith(_OWN):
    return False
  # JAX makes a ValueError of some errors of devices, which begin like UNKNOWN:.
  status = isinstance(error, ValueError) and re.match("[A-Z_]{5,}: ", words)
  known = isinstance(error, jax.errors.JaxRuntimeError | TimeoutError)
  return bool(known or status) and any(s in words.lower() for s in _SIGNS)


def _leave(code: int) -> None:
  """Ends this process without the usual wait for the others."""
  _ending.acquire()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(code)


def _on_abort(act: Callable[[], None]) -> Callable[[], None]:
  """Replaces the next abort() of C++ code; returns what undoes that."""
  if os.name != "posix":
    return lambda: None
  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda signum: act())
  _handlers.append(handler)
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  libc.signal.restype = ctypes.c_void_p
  # Not `signal.signal`: its handlers run in the main thread, after abort().
  before = libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
  return lambda: libc.signal(signal.SIGABRT, before)


def _lost(otherwise: str) -> None:
  """Ends the process because another one is gone.

  Args:
    otherwise: what to say if nobody knows which one.
  """
  who = roll.missing()
  if not who:
    # It may not have ended entirely.
    time.sleep(_STAY)
    who = roll.missing()
  end(LOST.format(who) if who else otherwise, GONE)


def end(sentence: str, code: int, *, stay: bool = True) -> None:
  """Ends the process, from any thread; only the first one speaks.

  Args:
    sentence: why.
    code: the exit code.
    stay: with `GONE`, whether to wait until others have seen who is gone.
  """
  _ending.acquire()
  with contextlib.suppress(OSError):
    os.write(2, f"mmdcodec: {sentence}\n".encode())
  if code == GONE and stay:
    pod = "KUBERNETES_SERVICE_HOST" in os.environ
    time.sleep(_STAY_IN_PODS if pod else _STAY)
  _leave(code)
