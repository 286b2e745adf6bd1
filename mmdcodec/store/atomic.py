"""Writes files and folders completely or not at all.

Output goes to a hidden path beside the target and is then renamed, so a reader
finds the old content or the new one, never a part. Where the target is a URL,
it goes to a temporary folder and is then uploaded, see `uploads.py`.
"""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmdcodec.store import disk, locks, paths, uploads

_LINUX = sys.platform == "linux"

# In the names of scratch folders.
_SCRATCH = ".unfinished-"

# Bytes of a name to which a suffix is added: file systems allow 255 in all.
_LONGEST = 220


@contextlib.contextmanager
def file(path: str | os.PathLike) -> Iterator[Path]:
  """Makes an empty file that replaces `path` if the block succeeds.

  If the block fails, `path` does not change.

  Args:
    path: target; its folder must exist.

  Yields:
    Path of the file to write.

  Raises:
    OSError: the folder cannot be written to.
  """
  path = paths.of(path)
  if isinstance(path, paths.Url):
    with disk.named(path), uploads.file(path) as partial:
      yield partial
    return
  # A list of the folder for each file would take long where thousands go.
  _remove_scratch(path, _scratch_names(Path(os.path.abspath(path.parent))))
  with _scratch(path) as made:
    partial = made / "new"
    partial.touch()
    yield partial
    os.replace(partial, path)


def write_text(path: str | os.PathLike, text: str) -> None:
  r"""Writes a text file in UTF-8.

  What UTF-8 lacks, such as bytes of file names that are not UTF-8, is escaped
  as in "caf\udce9".

  Raises:
    OSError: the folder cannot be written to.
  """
  with file(path) as partial:
    partial.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(path: str | os.PathLike, content: Any, indent: int = 2) -> None:
  """Writes a JSON file.

  Raises:
    OSError: the folder cannot be written to.
  """
  write_text(path, json.dumps(content, indent=indent) + "\n")


@contextlib.contextmanager
def folder(path: str | os.PathLike) -> Iterator[Path]:
  """Makes an empty folder that replaces `path` if the block succeeds.

  Args:
    path: target; missing parents are made.

  Yields:
    Path of the folder to fill.

  Raises:
    OSError: the parent cannot be written to.
  """
  path = paths.of(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with scratch(path) as made:
    # Inside, because the scratch folder has a lock file.
    partial = made / "new"
    partial.mkdir()
    yield partial
    replace_folder(partial, path)


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
  """Makes a hidden folder beside `path`, and removes it after the block.

  A lock distinguishes the folder of a live process from that of a killed one,
  which the next call removes.

  Args:
    path: what the folder is for; the parent must exist.

  Yields:
    The folder. It has a lock file, so the block moves what it made out of it.

  Raises:
    OSError: the parent cannot be written to.
  """
  if isinstance(path, paths.Url):
    with disk.named(path), uploads.scratch() as made:
      yield made
    return
  restore_folder(path)
  with _scratch(path) as made:
    yield made


@contextlib.contextmanager
def _scratch(path: Path) -> Iterator[Path]:
  """`scratch` without a look at what others left."""
  while True:
    # Unlike folders from `tempfile`, it has the default permissions.
    made = path.with_name(f"{_scratch_prefix(path)}{secrets.token_hex(8)}")
    made.mkdir()
    # Another process may remove it as a leftover before it is locked.
    with contextlib.suppress(FileNotFoundError):
      lock = locks.take(made, signed=False)
      if lock is not None and made.exists():
        break
      if lock is not None:
        lock.release()
  try:
    with disk.named(path):
      yield made
  finally:
    shutil.rmtree(made, ignore_errors=True)
    lock.release()


def replace_folder(source: Path, path: Path) -> None:
  """Moves a folder to `path`.

  Where the system cannot exchange two folders, replacing one takes two renames.
  If the process is killed between them, the old folder is left beside `path`;
  `restore_folder` puts it back.

  Args:
    source: a finished folder on the same file system, or, if the target is a
      URL, of this machine.
    path: target; an existing folder is deleted.
  """
  if isinstance(path, paths.Url):
    uploads.folder(source, path)
    return
  _finish_replacing(path)
  if path.exists() and _exchange(source, path):
    shutil.rmtree(source, ignore_errors=True)
    return
  old = _replaced(path)
  if path.exists():
    os.rename(path, old)
  try:
    os.rename(source, path)
  finally:
    _finish_replacing(path)


def restore_folder(path: Path) -> None:
  """Removes what killed processes that wrote to a path left beside it.

  Completes or undoes a `replace_folder`, and removes their `scratch` folders.
  """
  if isinstance(path, paths.Url):
    return
  _finish_replacing(path)
  _remove_scratch(path, _list_scratch(path.parent))


def _remove_scratch(path: Path, names: tuple[str, ...]) -> None:
  """Removes scratch folders for a path whose processes are dead."""
  prefix = _scratch_prefix(path)
  for name in names:
    if not name.startswith(prefix):
      continue
    with contextlib.suppress(OSError):
      stale = path.with_name(name)
      if (held := locks.take(stale, signed=False)) is not None:
        shutil.rmtree(stale, ignore_errors=True)
        held.release()


def _list_scratch(folder: Path) -> tuple[str, ...]:
  try:
    return tuple(name for name in os.listdir(folder) if _SCRATCH in name)
  except OSError:
    return ()


# What was there when this process first wrote a file to a folder. What is left
# later, another process leaves, and the next one removes it.
_scratch_names = functools.cache(_list_scratch)


def _finish_replacing(path: Path) -> None:
  old = _replaced(path)
  if path.exists():
    shutil.rmtree(old, ignore_errors=True)
  elif old.exists():
    os.rename(old, path)


def _scratch_prefix(path: Path) -> str:
  return f".{_short(path)}{_SCRATCH}"


def _replaced(path: Path) -> Path:
  return path.with_name(f".{_short(path)}.replaced")


def _short(path: Path) -> str:
  """Returns the name of a path, or a hash if nothing fits beside it."""
  name = os.fsencode(path.name)
  if len(name) <= _LONGEST:
    return path.name
  return hashlib.sha256(name).hexdigest()[:32]


def _exchange(one: Path, other: Path) -> bool:
  """Exchanges two folders in one step; returns whether the system can."""
  rename = getattr(ctypes.CDLL(None), "renameat2", None) if _LINUX else None
  if rename is None:
    return False
  # -100 is the working folder, 2 is RENAME_EXCHANGE.
  paths = os.fsencode(one.absolute()), os.fsencode(other.absolute())
  return rename(-100, paths[0], -100, paths[1], 2) == 0
