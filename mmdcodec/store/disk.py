"""Full disks: one error for them, whichever library meets one.

Orbax, ArrayRecord and safetensors report a full disk in errors of their own,
which hold the system's words; many errors of Python name no file.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmdcodec.errors import causes
from mmdcodec.store import paths

# No room for any file, for this user, for a file of this size.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def full(error: BaseException) -> int | None:
  """Returns the system's code if a full disk, or a quota, caused an error.

  Args:
    error: any error; the errors that led to it count as well.
  """
  for cause in causes(error):
    known, words = getattr(cause, "errno", None), str(cause)
    for code in _FULL:
      if known == code or os.strerror(code) in words:
        return code
  return None


@contextlib.contextmanager
def named(path: str | os.PathLike) -> Iterator[None]:
  """Turns every error of a full disk in the block into one that names it.

  Args:
    path: what the block writes, unless the error says so itself; of a URL,
      the error names the folder of temporary files.

  Raises:
    OSError: the disk is full; its `filename` is the path.
  """
  try:
    yield
  except Exception as error:
    code = full(error)
    if code is None or getattr(error, "filename", None) is not None:
      raise
    # What goes to an object store is made in a temporary folder.
    place = tempfile.gettempdir() if paths.is_url(path) else os.fspath(path)
    raise OSError(code, os.strerror(code), place) from error


def sentence(error: BaseException) -> str:
  """Describes an error that `full` recognises, with the disk if known."""
  code = full(error)
  words = os.strerror(code) if code else str(error)
  path = getattr(error, "filename", None)
  where = "" if path is None else f" ({path}, on the disk at {_mount(path)})"
  return f"{words}{where}; make room there, or write elsewhere."


def _mount(path: str | os.PathLike) -> str:
  """Returns the place where the disk of a path is mounted."""
  place = Path(os.path.realpath(path))
  while not os.path.ismount(place) and place != place.parent:
    place = place.parent
  return str(place)
