"""Locks: one process at a time writes to a folder.

Whatever writes to a folder over a longer time takes its lock: trainings, jobs
in stages, `tokenize`, and the scratch folders of `prepare`.

The lock is `flock` on the file .lock in the folder. The system releases it when
its process ends in any way, so a lock is never left behind; the file stays.
Where `flock` is not available (Windows, and file systems such as gcsfuse, or
Lustre and NFS without their lock services), the file .lock.owner is the lock.
It is removed at the end. If its process was killed, the next one takes over,
provided that it runs on the same host; otherwise the user has to delete it.
Object stores have locks of another kind, see `remote_locks.py`.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mmdcodec.errors import UserError
from mmdcodec.store import paths, remote_locks

FILE, OWNER, REMOVING = ".lock", ".lock.owner", ".lock.removing"

# Files that are locks of this process.
_mine: set[Path] = set()

# Someone else has the lock. All other errors: there is no `flock` here.
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


class Lock:
  """A lock that this process has, until `release`."""

  def __init__(self, handle: int | None = None, owner: Path | None = None):
    """Keeps what has to be closed or removed.

    Args:
      handle: open file with the `flock`, if that is the lock.
      owner: the file that is the lock, otherwise.
    """
    self._handle, self._owner = handle, owner

  def release(self) -> None:
    """Lets other processes have the lock."""
    if self._handle is not None:
      os.close(self._handle)
    if self._owner is not None:
      self._owner.unlink(missing_ok=True)
      _mine.discard(self._owner)


def take(
  folder: Path, *, signed: bool = True
) -> Lock | remote_locks.RemoteLock | None:
  """Takes the lock of a folder.

  Args:
    folder: the folder.
    signed: whether to write who has it, for `refusal`. On slow disks that takes
      longer than all the rest.

  Returns:
    The lock; None if another process, or this one, has it already.

  Raises:
    OSError: there is no such folder, or it cannot be written to.
  """
  if isinstance(folder, paths.Url):
    return remote_locks.take(folder)
  handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
  try:
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (ImportError, OSError) as error:
    os.close(handle)
    if isinstance(error, OSError) and error.errno in _TAKEN:
      return None
    return _take_file(folder / OWNER)
  if signed:
    # A full disk is no reason not to lock.
    with contextlib.suppress(OSError):
      os.ftruncate(handle, 0)
      os.write(handle, _me().encode())
  return Lock(handle)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
  """Holds the lock of a folder during the block.

  Args:
    folder: an existing folder.

  Raises:
    UserError: another process has the lock.
    OSError: the folder cannot be written to.
  """
  lock = take(folder)
  if lock is None:
    raise UserError(refusal(folder))
  try:
    yield
  finally:
    lock.release()


def refusal(folder: Path) -> str:
  """Says who has the lock of a folder, and what to do."""
  if isinstance(folder, paths.Url):
    return remote_locks.refusal(folder)
  file = folder / OWNER
  advice = f" (if that one is dead, delete {file})"
  if not file.exists():
    file, advice = folder / FILE, ""
  host, pid = _read(file)
  who = f"another process ({pid} on {host})" if pid else "another process"
  return (
    f"{who} writes to {folder}; wait until it ends, or give another"
    f" folder{advice}."
  )


def _take_file(path: Path) -> Lock | None:
  """Takes a lock that is the existence of a file."""
  for _ in range(2):
    with contextlib.suppress(FileExistsError), open(path, "x") as file:
      # First, so that no other thread sees a file of this process that is not
      # there: it would count as one of a process that had the same number.
      _mine.add(path)
      file.write(_me())
      return Lock(owner=path)
    if not _is_left(path):
      return None
    _remove_left(path)
  return None


def _is_left(path: Path) -> bool:
  """Whether a lock is that of a dead process."""
  return path not in _mine and _is_dead(*_read(path))


def _remove_left(path: Path) -> None:
  """Removes the lock of a dead process, unless another one is doing that.

  After this process has seen the dead one, another may have removed its lock
  and taken it. So only one at a time may remove it, after a second look: then
  nobody can take it in between. A process killed in between leaves the file
  that ensures this; then it is for the user to delete the lock.
  """
  removing = path.with_name(REMOVING)
  try:
    removing.touch(exist_ok=False)
  except FileExistsError:
    return
  try:
    if _is_left(path):
      path.unlink(missing_ok=True)
  finally:
    removing.unlink(missing_ok=True)


def _me() -> str:
  return f"{socket.gethostname()} {os.getpid()}\n"


def _read(path: Path) -> tuple[str, int]:
  """Reads host and process of an owner; ("", 0) if it does not say."""
  try:
    host, pid = path.read_text(errors="replace").split()
    return host, int(pid)
  except (OSError, ValueError):
    return "", 0


def _is_dead(host: str, pid: int) -> bool:
  """Whether an owner is known to run no longer."""
  if host != socket.gethostname() or not pid or os.name != "posix":
    return False
  # A container that starts again gives its processes the same numbers.
  if pid == os.getpid():
    return True
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except OSError:
    pass
  return False
