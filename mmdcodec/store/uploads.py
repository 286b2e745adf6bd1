"""Writes files and folders to object stores: made here, then uploaded.

A store takes a file in one request, so readers find the old one or the new one.
A folder takes many. While they are under way, the object `.unfinished` is in
it, and the files that make it a bundle or a data set are not: they go last. A
folder whose upload was interrupted is thus none, and the same command replaces
it. Replacing a folder is not one step: until the new one is complete, there is
neither the old nor the new.
"""

import concurrent.futures
import contextlib
import pathlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping

from mmdcodec.errors import UserError
from mmdcodec.store.urls import Url

MARK = ".unfinished"
# Begins the name of what `check_writable` writes and deletes again.
PROBE = ".mmdcodec-"
# What makes a folder a bundle, a workdir or a data set.
_LAST = ("config.json", "mmdcodec.json")
# Requests under way at a time.
_THREADS = 16


@contextlib.contextmanager
def scratch() -> Iterator[pathlib.Path]:
  """Makes a folder on this machine, and removes it after the block.

  It is where `tempfile` makes its files: the variable TMPDIR says where.
  """
  with tempfile.TemporaryDirectory(prefix="mmdcodec-") as made:
    yield pathlib.Path(made)


@contextlib.contextmanager
def file(target: Url) -> Iterator[pathlib.Path]:
  """Makes an empty file, and uploads it if the block succeeds.

  Args:
    target: the object to write.

  Yields:
    The file to write.

  Raises:
    UserError: the store cannot be reached, or refuses.
  """
  with scratch() as folder:
    partial = folder / "new"
    partial.touch()
    yield partial
    target.upload(partial)


def folder(
  source: pathlib.Path, target: Url, more: Mapping[str, Url] | None = None
) -> None:
  """Copies a finished folder to an object store, in place of what is there.

  Args:
    source: a folder of this machine.
    target: the folder to replace, which gets no other files than these.
    more: objects of the store that are to be copied there too, by the names
      that they get.

  Raises:
    UserError: the store cannot be reached, or refuses.
  """
  found = sorted(path for path in source.rglob("*") if path.is_file())
  new = {path.relative_to(source).as_posix(): path for path in found}
  new |= more or {}
  (target / MARK).write_text("this folder is being written\n")
  old = [name for name in target.files() if name != MARK]
  # First, so that nobody reads a mixture.
  last = [name for name in new if _is_last(name)]
  for name in sorted(old, key=lambda name: not _is_last(name)):
    if name in last or name not in new:
      (target / name).unlink(missing_ok=True)

  def send(name: str) -> None:
    if isinstance(path := new[name], Url):
      path.copy_to(target / name)
    else:
      (target / name).upload(path)

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    list(pool.map(send, [name for name in new if name not in last]))
  # Those of subfolders before that of the folder.
  for name in sorted(last, key=lambda name: -name.count("/")):
    send(name)
  (target / MARK).unlink(missing_ok=True)


def _is_last(name: str) -> bool:
  return name.rpartition("/")[2] in _LAST


def check_writable(folder: pathlib.Path) -> None:
  """Writes an object to a folder of a store and deletes it, before long work.

  Args:
    folder: the folder; one of this machine is not touched.

  Raises:
    UserError: the store cannot be reached, or refuses.
  """
  if isinstance(folder, Url):
    probe = folder / f"{PROBE}{secrets.token_hex(8)}"
    probe.write_bytes(b"")
    probe.unlink()


def check_finished(folder: pathlib.Path) -> None:
  """Raises UserError if a folder in an object store is not complete."""
  if is_unfinished(folder):
    raise UserError(
      f"{folder} is not complete: its upload was interrupted, or is under way;"
      " wait for the command that writes it, or run it again."
    )


def is_unfinished(folder: pathlib.Path) -> bool:
  """Returns whether the upload of a folder was interrupted, or is under way."""
  return isinstance(folder, Url) and (folder / MARK).exists()
