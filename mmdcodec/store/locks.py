"""Locks that keep other processes out of a folder.

The system releases a lock when its process ends in any way, so no lock is ever
left behind. Where locks are not available (Windows, some network file systems),
no process is kept out.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mmdcodec.errors import UserError


def lock_folder(folder: Path) -> int | None:
  """Locks a folder until the handle is closed.

  Returns:
    The handle, for `os.close`; None if another process has the lock, or the
    folder cannot be opened.
  """
  try:
    handle = os.open(folder, os.O_RDONLY)
  except OSError:
    return None
  if _try_lock(handle):
    return handle
  os.close(handle)
  return None


@contextlib.contextmanager
def exclusive(path: Path, message: str) -> Iterator[None]:
  """Holds the lock of a file during the block.

  Args:
    path: path of the file, which is made if missing.
    message: message of the error.

  Raises:
    UserError: another process has the lock.
    OSError: the file cannot be made.
  """
  with open(path, "w") as file:
    if not _try_lock(file.fileno()):
      raise UserError(message)
    yield


def _try_lock(handle: int) -> bool:
  """Takes the lock unless another process has it; returns whether it did."""
  try:
    import fcntl
  except ImportError:
    return True
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
  return True
