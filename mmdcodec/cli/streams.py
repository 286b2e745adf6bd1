"""The standard streams of a command: closed ones, broken ones, full ones."""

import contextlib
import os
import select
import sys
import threading
from typing import Any, BinaryIO, TextIO

from mmdcodec.errors import UserError
from mmdcodec.store import disk

# The exit code of programs that SIGPIPE ended: 128 + 13.
READER_GONE = 141


def say(words: str) -> None:
  """Prints a line on stderr, if there is somebody to read it."""
  with contextlib.suppress(OSError):
    print(f"mmdcodec: {words}", file=sys.stderr, flush=True)


def forgive() -> None:
  """Lets stdout escape what its encoding lacks, as stderr does."""
  out = sys.stdout
  # Python's handler for the plain C locale gives bytes of file names back.
  exact = getattr(out, "errors", "") == "surrogateescape"
  if hasattr(out, "reconfigure") and not (exact and out.encoding == "utf-8"):
    out.reconfigure(errors="backslashreplace")


def stdin() -> BinaryIO:
  """Returns the bytes of stdin.

  Raises:
    UserError: it is closed.
  """
  if sys.__stdin__ is None:
    raise UserError("stdin is closed; give the name of a file instead of -.")
  return sys.stdin.buffer


def stdout() -> BinaryIO:
  """Returns stdout for bytes.

  Raises:
    UserError: it is closed.
  """
  if sys.__stdout__ is None:
    raise UserError("stdout is closed; give the name of a file instead of -.")
  return sys.stdout.buffer


def begin() -> None:
  """Prepares the streams of a process that runs one command."""
  # The next files to be opened would take the place of closed streams, and
  # receive what libraries print.
  for handle in range(3):
    try:
      os.fstat(handle)
    except OSError:
      os.open(os.devnull, os.O_RDWR)
  for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
  threading.excepthook = _thread_failed
  sys.excepthook = _failed


def end(code: int) -> int:
  """Ends the streams of a process, so that nothing fails after this.

  Args:
    code: the exit code.

  Returns:
    The exit code: 2 instead of 0 if there was no room for the output.
  """
  for stream in (sys.stdout, sys.stderr):
    try:
      with disk.named("/dev/stdout"):
        stream.flush()
    except (OSError, ValueError) as error:
      discard(stream)
      if not code and stream is sys.stdout and disk.full(error):
        say(disk.sentence(error))
        code = 2
  if code:
    # The error was described. Threads and handlers that run into its
    # consequences must not add to that.
    threading.excepthook = lambda args: None
    sys.unraisablehook = lambda args: None
  return code


def discard(stream: TextIO) -> None:
  """Sends what is and will be written to a stream nowhere."""
  with contextlib.suppress(OSError, ValueError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def reader_gone() -> bool:
  """Whether the reader of stdout or stderr has closed it, as in `| head`."""
  if not hasattr(select, "poll"):  # Windows
    return True
  for stream in (sys.stdout, sys.stderr):
    poll = select.poll()
    try:
      poll.register(stream, 0)
    except (AttributeError, OSError, ValueError):
      continue  # not a file of the system
    if poll.poll(0):
      return True
  return False


def _failed(kind: Any, error: BaseException, trace: Any) -> None:
  """Prints an error that nothing caught."""
  # After a failed save, tensorstore reports late results to its closed loop.
  late = isinstance(error, RuntimeError) and "loop is closed" in str(error)
  if not late:
    sys.__excepthook__(kind, error, trace)


def _thread_failed(args: Any) -> None:
  """Ends the process if a thread met a full disk: its work is lost.

  TensorBoard's thread, for example: without it, the run waits for ever.
  """
  if args.exc_value is None or disk.full(args.exc_value) is None:
    threading.__excepthook__(args)
    return
  say(disk.sentence(args.exc_value))
  os._exit(end(2))
