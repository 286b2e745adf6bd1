"""Paths in object stores: `Url` has the methods of pathlib, by fsspec."""

import contextlib
import functools
import io
import os
import pathlib
import re
import socket
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import IO, Any

from mmdcodec.errors import UnknownServer, Unreachable, UserError, causes

# Words of stores that let nobody in, or not this user, and of clients that do
# not even ask.
_REFUSAL = re.compile(
  r"\b40[13]\b|forbidden|denied|unauthor|unauthenticated|credential"
  r"|validation failed|invalid bucket",
  re.I,
)
# There is no such name, unlike EAI_AGAIN: no server of names has answered.
_NAMELESS = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))

# Seconds for which a run waits for its store at the start, and between tries.
PATIENCE, _PAUSE = 600.0, 5.0

# The extras of this package with the file systems.
_EXTRAS = {"gs": "gcs", "s3": "s3"}


@functools.cache
def system_of(scheme: str) -> Any:
  """Opens the file system of URLs of a scheme.

  Raises:
    UserError: none is installed.
  """
  # gcsfs would ask for the kind of every bucket, by a service that needs
  # rights of its own, and warn if it has none. Nothing here depends on it.
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  try:
    import fsspec
    from fsspec import config

    kind = fsspec.get_filesystem_class(scheme)
  except ImportError:
    if scheme not in _EXTRAS:
      raise UserError(
        f"{scheme}:// needs a file system that is not installed: install the"
        " package of fsspec for it, or give another path."
      ) from None
    raise UserError(
      f"{scheme}:// needs a file system that is not installed: run pip install"
      f" 'mmdcodec[{_EXTRAS[scheme]}]'."
    ) from None
  except ValueError:
    raise UserError(
      f"{scheme}:// is served by no file system: give a path of this machine,"
      " or a URL of fsspec, such as gs:// (pip install 'mmdcodec[gcs]') or"
      " s3:// (pip install 'mmdcodec[s3]')."
    ) from None
  # Lists would be remembered while other processes write. This holds for
  # everyone in this process who asks fsspec for the file system, as Orbax does.
  names = [kind.protocol] if isinstance(kind.protocol, str) else kind.protocol
  for name in names:
    config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
  return fsspec.filesystem(scheme)


class Url(pathlib.PosixPath):
  """A path in an object store.

  It is what `pathlib` makes of the text, with the parts ("gs:", "bucket", ...),
  so all methods on names are those of pathlib; methods on files ask the store.
  Whatever needs a path of this machine gets an error instead.
  """

  __slots__ = ()

  def __str__(self) -> str:
    """Returns the URL."""
    return super().__str__().replace(":/", "://", 1)

  def __fspath__(self) -> str:
    raise UserError(f"{self}: expected a path of this machine, not a URL.")

  def __repr__(self) -> str:
    return f"Url({str(self)!r})"

  def as_posix(self) -> str:
    """Returns the URL."""
    return str(self)

  def is_absolute(self) -> bool:
    """Returns True: URLs depend on no working folder."""
    return True

  def absolute(self) -> "Url":
    """Returns the same path."""
    return self

  def resolve(self, strict: bool = False) -> "Url":
    """Returns the same path."""
    return self

  def expanduser(self) -> "Url":
    """Returns the same path."""
    return self

  @property
  def system(self) -> Any:
    """The file system of fsspec."""
    return system_of(self.parts[0].removesuffix(":"))

  def info(self) -> dict[str, Any]:
    """Returns what the store says about an object or folder.

    Raises:
      FileNotFoundError: there is none.
      UserError: the store cannot be reached, or refuses.
    """
    with self._asking():
      # The list of a store may lack what was written a moment ago.
      self.system.invalidate_cache()
      return dict(self.system.info(str(self)))

  def files(self) -> dict[str, dict[str, Any]]:
    """Returns what the store says about all objects below, by relative name."""
    with self._asking():
      found = self.system.find(str(self), detail=True)
      root = self.system._strip_protocol(str(self)).rstrip("/") + "/"
      named = {
        name.removeprefix("/")[len(root.removeprefix("/")) :]: info
        for name, info in found.items()
      }
    # An empty object may stand for the folder.
    return {k: v for k, v in sorted(named.items()) if k and k[-1] != "/"}

  def exists(self, **_: Any) -> bool:
    """Returns whether there is an object or folder of this name."""
    with contextlib.suppress(FileNotFoundError):
      return bool(self.info())
    return False

  def is_file(self, **_: Any) -> bool:
    """Returns whether there is an object of this name."""
    with contextlib.suppress(FileNotFoundError):
      return self.info()["type"] == "file"
    return False

  def is_dir(self, **_: Any) -> bool:
    """Returns whether there are objects below this name."""
    with contextlib.suppress(FileNotFoundError):
      return self.info()["type"] == "directory"
    return False

  def is_symlink(self) -> bool:
    """Returns False: stores have no links."""
    return False

  def stat(self, **_: Any) -> os.stat_result:
    """Returns kind, size and time of writing, like `os.stat`."""
    info = self.info()
    kind = stat.S_IFREG if info["type"] == "file" else stat.S_IFDIR
    at = written(info)
    return os.stat_result(
      (kind | 0o644, 0, 0, 1, 0, 0, int(info["size"] or 0), at, at, at)
    )

  def open(  # type: ignore[override]
    self, mode: str = "r", *_: Any, encoding: str | None = None, **__: Any
  ) -> IO[Any]:
    """Opens an object for reading; see `atomic.file` for writing."""
    if mode not in ("r", "rb"):
      raise ValueError(f"{self}: objects are written whole, not with {mode!r}")
    with self._asking():
      raw = self.system.open(str(self), "rb")
    data: IO[bytes] = io.BufferedReader(_Reading(self, raw))
    return data if mode == "rb" else io.TextIOWrapper(data, encoding or "utf-8")

  def read_bytes(self) -> bytes:
    """Reads a whole object."""
    with self._asking():
      return self.system.cat_file(str(self))

  def read_text(
    self, encoding: str | None = None, errors: str | None = None, **_: Any
  ) -> str:
    """Reads a whole object as text."""
    return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

  def write_bytes(self, data: Any) -> int:
    """Writes an object in one request."""
    with self._asking("written"):
      self.system.pipe_file(str(self), bytes(data))
    return len(data)

  def write_text(
    self,
    data: str,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
  ) -> int:
    """Writes an object in one request."""
    return self.write_bytes(
      data.encode(encoding or "utf-8", errors or "strict")
    )

  def create(self, data: bytes) -> bool:
    """Writes an object only if there is none; returns whether it did."""
    try:
      with self._asking("written"):
        self.system.pipe_file(str(self), data, mode="create")
    except FileExistsError:
      return False
    return True

  def upload(self, file: pathlib.Path) -> None:
    """Makes an object of a file of this machine."""
    with self._asking("written"):
      self.system.put_file(str(file), str(self))

  def download(self, file: pathlib.Path) -> None:
    """Writes the contents of an object to a file of this machine."""
    with self._asking():
      self.system.get_file(str(self), str(file))

  def mkdir(self, *_: Any, **__: Any) -> None:
    """Does nothing: a folder is there as soon as an object is in it."""

  def iterdir(self) -> Generator["Url", None, None]:
    """Yields what is in a folder."""
    with self._asking():
      found = self.system.ls(str(self), detail=False)
    names = sorted({name.rstrip("/").rpartition("/")[2] for name in found})
    own = {"", self.name} if len(found) == 1 and not self.is_dir() else {""}
    yield from (self / name for name in names if name not in own)

  def glob(self, pattern: str, *_: Any) -> Generator["Url", None, None]:
    """Yields what matches a pattern below a folder."""
    with self._asking():
      found = self.system.glob(f"{self}/{pattern}")
    for name in sorted(found):
      yield type(self)(self.parts[0], *name.strip("/").split("/"))

  def unlink(self, missing_ok: bool = False) -> None:
    """Deletes an object."""
    try:
      with self._asking("deleted"):
        self.system.rm_file(str(self))
    except FileNotFoundError:
      if not missing_ok:
        raise

  def copy_to(self, target: "Url") -> None:
    """Copies an object within its store."""
    with self._asking("written"):
      self.system.cp_file(str(self), str(target))

  def rename(self, target: str | os.PathLike) -> "Url":
    """Copies an object or a folder and deletes it, which is not one step."""
    goal = type(self)(target)
    if self.is_dir():
      for name in self.files():
        (self / name).copy_to(goal / name)
    else:
      self.copy_to(goal)
    self.remove()
    return goal

  replace = rename

  def remove(self) -> None:
    """Deletes an object, or all that is in a folder, if it is there."""
    with contextlib.suppress(FileNotFoundError), self._asking("deleted"):
      self.system.rm(str(self), recursive=True)

  @contextlib.contextmanager
  def _asking(self, what: str = "read") -> Iterator[None]:
    """Gives errors of a store a form that commands can print.

    Raises:
      FileNotFoundError: there is no such object, or no bucket.
      Unreachable: the store does not answer as it should; UnknownServer if
        there is none of its name.
      UserError: it refuses, or there is no bucket to write to.
    """
    try:
      yield
    except (FileExistsError, UserError):
      raise
    except FileNotFoundError as error:
      if what == "written":
        raise UserError(
          f"{self}: cannot be written; is there a bucket of this name?"
        ) from error
      raise FileNotFoundError(2, os.strerror(2), str(self)) from error
    except IsADirectoryError:
      raise
    except Exception as error:
      raise kind_of(error)(
        f"{self}: cannot be {what} ({_reason(error)}); check its name, your"
        " credentials and your rights, and try again."
      ) from error


class _Reading(io.RawIOBase):
  """An open object whose errors are those of `Url`."""

  def __init__(self, url: Url, opened: Any):
    """Takes what fsspec has opened."""
    self._url, self._opened = url, opened

  def readable(self) -> bool:
    """Returns True."""
    return True

  def seekable(self) -> bool:
    """Returns True."""
    return True

  def readinto(self, buffer: Any) -> int:
    """Reads the next bytes."""
    with self._url._asking():
      return self._opened.readinto(buffer)

  def readall(self) -> bytes:
    """Reads to the end, in as few requests as fsspec makes of it."""
    with self._url._asking():
      return self._opened.read()

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    """Moves to another place."""
    with self._url._asking():
      return self._opened.seek(offset, whence)

  def tell(self) -> int:
    """Returns the place."""
    return self._opened.tell()

  def close(self) -> None:
    """Closes the object."""
    self._opened.close()
    super().close()


def wait_for(
  paths: Iterable[pathlib.Path],
  say: Callable[[str], None],
  check: Callable[[], None],
) -> None:
  """Waits until the stores of paths answer, for `PATIENCE` seconds.

  Args:
    paths: any paths; there is nothing to wait for at those of this machine.
    say: called with a line of text if a store does not answer at once.
    check: called before each further try; its errors end the wait.

  Raises:
    Unreachable: a store still does not answer; UnknownServer at once if there
      is none of its name.
    UserError: it refuses.
  """
  end, told = time.monotonic() + PATIENCE, False
  # One path of each bucket.
  left = list({p.parts[:2]: p for p in paths if isinstance(p, Url)}.values())
  while left:
    try:
      left[-1].exists()
      left.pop()
      continue
    except UnknownServer:
      raise
    except Unreachable as error:
      if time.monotonic() > end:
        raise
      if not told:
        say(f"waiting up to {PATIENCE:g} s for a store: {error}")
      told = True
    time.sleep(_PAUSE)
    check()


def kind_of(error: BaseException) -> type[UserError]:
  """What an error of a store is to users.

  Returns:
    UserError if the store, or its client, said that something is not allowed;
    UnknownServer if there is no server of its name; otherwise Unreachable.
  """
  found = [*causes(error)]
  if any(
    isinstance(cause, PermissionError) or _REFUSAL.search(str(cause))
    for cause in found
  ):
    return UserError
  nameless = any(
    isinstance(cause, socket.gaierror) and cause.errno in _NAMELESS
    for cause in found
  )
  return UnknownServer if nameless else Unreachable


def content_of(info: dict[str, Any]) -> str:
  """Returns what a store says about the contents of an object, or ""."""
  names = ("md5Hash", "crc32c", "ETag", "etag")
  return next((f"{k} {info[k]}" for k in names if info.get(k)), "")


def written(info: dict[str, Any]) -> int:
  """Returns when an object was written, in seconds, if the store says so."""
  for name in ("mtime", "LastModified", "last_modified", "created"):
    if (at := info.get(name)) is not None:
      return int(at.timestamp() if hasattr(at, "timestamp") else at)
  return 0


def _reason(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return (lines[0].rstrip(".") if lines else "") or type(error).__name__
