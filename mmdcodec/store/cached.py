"""Copies of objects on this machine, for whoever needs a file.

Shards of data sets and weights are read by libraries in C++, which open files.
Each object is downloaded once, by one of the processes that need it, and again
only if it has changed:

    FOLDER/<hash of URL, size and version>/<name>   a copy
    FOLDER/users/<random>                           what a process uses

FOLDER is $MMDCODEC_CACHE, or mmdcodec/files in the user's cache. It holds up to
$MMDCODEC_CACHE_GB gigabytes (default: 100): before a download, copies that were
used longest ago are removed, but not those of processes that run. The size of
a copy is compared with the object's, and its MD5 where the store tells it.
"""

import base64
import concurrent.futures
import contextlib
import functools
import hashlib
import os
import pathlib
import secrets
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Any

from mmdcodec import formatting, platform
from mmdcodec.errors import UserError
from mmdcodec.store import paths, urls
from mmdcodec.store.urls import Url

_THREADS = 16
# Bytes of a download of which the user is told.
_MENTIONED = 64 << 20
# In this process.
_one_at_a_time = threading.RLock()


def local(path: pathlib.Path) -> pathlib.Path:
  """Returns a file of this machine with the contents of a file.

  Args:
    path: a path of this machine, which is returned, or a URL.

  Raises:
    FileNotFoundError: there is no such object.
    UserError: it cannot be downloaded.
  """
  return local_files([path])[0]


def local_files(files: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """Returns files of this machine with the contents of files, see `local`."""
  remote = [path for path in files if isinstance(path, Url)]
  if not remote:
    return list(files)
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    infos = dict(zip(remote, pool.map(Url.info, remote), strict=True))
    copies = {path: _copy_of(path, info) for path, info in infos.items()}
    missing = _missing(copies, infos)
    tasks = [pool.submit(_download, u, infos[u], copies[u]) for u in missing]
    for task in tasks:
      task.result()
  return [copies[path] if isinstance(path, Url) else path for path in files]


def _folder() -> pathlib.Path:
  if chosen := os.environ.get("MMDCODEC_CACHE"):
    return paths.on_disk(chosen, "MMDCODEC_CACHE").expanduser()
  return pathlib.Path(platform.cache_folder("files"))


def _most() -> int:
  """Returns the most bytes of all copies."""
  text = os.environ.get("MMDCODEC_CACHE_GB", "100")
  try:
    return int(float(text) * 1e9)
  except (ValueError, OverflowError):
    raise UserError(
      f"MMDCODEC_CACHE_GB is {text!r}; expected gigabytes, such as 100."
    ) from None


def _version(info: dict[str, Any]) -> str:
  """Returns what changes with the contents of an object."""
  names = ("generation", "ETag", "etag", "md5Hash", "mtime", "created")
  return next((f"{k} {info[k]}" for k in names if info.get(k)), "")


def _copy_of(path: Url, info: dict[str, Any]) -> pathlib.Path:
  key = f"{path}\n{info['size']}\n{_version(info)}".encode()
  return _folder() / hashlib.sha256(key).hexdigest()[:32] / path.name


def _missing(
  copies: dict[Url, pathlib.Path], infos: dict[Url, dict[str, Any]]
) -> list[Url]:
  """Claims copies for this process, makes room, and returns what is missing."""
  with _alone():
    users = _users()
    users.write("".join(f"{copy.parent.name}\n" for copy in copies.values()))
    users.flush()
    missing = []
    for path, copy in copies.items():
      if _is_whole(copy, infos[path]):
        os.utime(copy.parent)
      else:
        missing.append(path)
    if missing:
      size = sum(infos[path]["size"] for path in missing)
      _make_room(size)
      if size > _MENTIONED:
        print(
          f"copying {formatting.file_size(size)} from {missing[0].parent} to"
          f" {_folder()}",
          file=sys.stderr,
          flush=True,
        )
  return missing


def _make_room(need: int) -> None:
  """Removes copies that nobody uses, the oldest first, until there is room.

  Raises:
    UserError: there is not enough.
  """
  used, sizes = _in_use(), {}
  for folder in _folder().iterdir():
    if folder.is_dir() and folder.name != "users":
      with contextlib.suppress(OSError):
        size = sum(file.stat().st_size for file in folder.iterdir())
        sizes[folder] = (folder.stat().st_mtime, size)
  most, total = _most(), sum(size for _, size in sizes.values())
  for folder, (_, size) in sorted(sizes.items(), key=lambda item: item[1]):
    if total + need <= most:
      return
    if folder.name not in used:
      shutil.rmtree(folder, ignore_errors=True)
      total -= size
  if total + need > most:
    raise UserError(
      f"copies of objects need {formatting.file_size(need)} in {_folder()},"
      f" which may hold {formatting.file_size(most)}, of which running"
      f" processes use {formatting.file_size(total)}; raise MMDCODEC_CACHE_GB,"
      " or set MMDCODEC_CACHE to a larger disk."
    )


def _is_whole(copy: pathlib.Path, info: dict[str, Any]) -> bool:
  return copy.is_file() and copy.stat().st_size == info["size"]


def _download(path: Url, info: dict[str, Any], copy: pathlib.Path) -> None:
  """Makes a copy, whole or not at all, unless another process does."""
  copy.parent.mkdir(parents=True, exist_ok=True)
  with copy.with_name(f"{copy.name}.lock").open("w") as file:
    _lock(file)
    if not _is_whole(copy, info):
      _fetch(path, info, copy)


def _fetch(path: Url, info: dict[str, Any], copy: pathlib.Path) -> None:
  """Downloads an object."""
  partial = copy.with_name(f".{secrets.token_hex(8)}")
  try:
    path.download(partial)
    if (found := partial.stat().st_size) != info["size"]:
      raise UserError(
        f"{path}: {found} of {info['size']} bytes were received, or it changed;"
        " try again."
      )
    if expected := info.get("md5Hash"):
      with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").digest()
      if base64.b64encode(digest).decode() != expected:
        raise UserError(f"{path}: arrived damaged; try again.")
    # The same on all machines: others ask when a shard was written.
    time = urls.written(info)
    os.utime(partial, (time, time))
    os.replace(partial, copy)
  finally:
    partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
  """Keeps other threads and processes out."""
  folder = _folder()
  (folder / "users").mkdir(parents=True, exist_ok=True)
  with _one_at_a_time, (folder / ".lock").open("w") as file:
    _lock(file)
    yield


@functools.cache
def _users_in(folder: pathlib.Path, pid: int) -> IO[str]:
  """Opens the list of what this process uses, locked as long as it lives."""
  del pid  # A forked process needs a list of its own.
  file = (folder / "users" / secrets.token_hex(8)).open("w")
  _lock(file)
  return file


def _users() -> IO[str]:
  return _users_in(_folder(), os.getpid())


def _in_use() -> set[str]:
  """Returns the copies that running processes use; forgets dead ones."""
  used: set[str] = set()
  for path in (_folder() / "users").iterdir():
    with contextlib.suppress(FileNotFoundError), path.open("r+") as file:
      if _lock(file, wait=False):
        path.unlink(missing_ok=True)
      else:
        used.update(file.read().split())
  return used


def _lock(file: IO[str], *, wait: bool = True) -> bool:
  """Locks a file until it is closed; returns whether it was free.

  Where the disk has no locks, processes do not wait for one another, and
  whatever is listed counts as used.
  """
  import fcntl

  try:
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except OSError:
    return wait
  return True
