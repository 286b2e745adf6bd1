"""Paths that may be URLs, such as gs://bucket/runs/small.

`of` makes a path of whatever a user gives: a `pathlib.Path` of this machine, or
a `Url`, a path with the same methods whose files are objects in a store that
fsspec knows. Only this file makes paths of texts that users give, so no other
file has to know which of the two it holds.

Object stores have no folders, and neither locks nor renames of folders:

    a folder       is there as soon as an object is in it; making one is nothing
    a file         is written on this machine and uploaded in one request, so
                   readers find the old object or the new one (`atomic.file`)
    a new folder   is made on this machine and uploaded; the file that makes it
                   one of its kind (`config.json`, `mmdcodec.json`) goes last,
                   and a mark is there until then (`uploads.py`)
    a checkpoint   is one once it has a digest, which is written last
                   (`checkpoint_folder.py`)
    a lock         is an object that is created only if it is not there, and
                   that its owner writes again every few seconds
                   (`remote_locks.py`)
    an open file   of a library in C++ is a copy on this machine (`cached.py`)
"""

import os
import pathlib
import re
import shutil
from collections.abc import Iterable

from mmdcodec.errors import UserError
from mmdcodec.store import urls
from mmdcodec.store.urls import Url

# At least two letters, so that the drive of a Windows path is none.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# What pathlib, and others who tidy up slashes, make of URLs.
_CUT = re.compile(r"(gs|gcs|s3):/?[^/]")
_SAME = {"gcs": "gs", "s3a": "s3"}


def of(where: str | os.PathLike) -> pathlib.Path:
  """Makes a path of what a user gives.

  Args:
    where: a path of this machine, or a URL; `file://` is a path of this
      machine.

  Returns:
    A `pathlib.Path`, or a `Url` for a URL.

  Raises:
    UserError: no installed file system serves the URL.
  """
  if isinstance(where, Url):
    return where
  text = os.fspath(where)
  if isinstance(text, str) and (match := _SCHEME.match(text)):
    scheme = match[1].lower()
    if scheme in ("file", "local"):
      return pathlib.Path(text[match.end() :])
    scheme, rest = _SAME.get(scheme, scheme), text[match.end() :]
    urls.system_of(scheme)
    if not rest.strip("/"):
      raise UserError(f"{text}: expected a path in a bucket.")
    return Url(f"{scheme}:", *rest.split("/"))
  if isinstance(where, str) and _CUT.match(text):
    scheme, _, rest = text.partition(":")
    raise UserError(
      f"{text}: a URL has two slashes; give {scheme}://{rest.lstrip('/')}."
    )
  return pathlib.Path(where)


def is_url(where: str | os.PathLike) -> bool:
  """Returns whether a path that a user gives is a URL."""
  if isinstance(where, pathlib.Path):
    return isinstance(where, Url)
  match = _SCHEME.match(str(where))
  return match is not None and match[1].lower() not in ("file", "local")


def check_words(words: Iterable[str]) -> None:
  """Checks the URLs in a command line before its work begins.

  Args:
    words: arguments such as "gs://a/b", "--model=gs://a/b" or "x=gs://a,gs://b".

  Raises:
    UserError: no installed file system serves one of them.
  """
  for word in words:
    for text in re.split("[=,]", word):
      # A prompt may name a page; a path seldom does.
      if not text.startswith("http") and (is_url(text) or _CUT.match(text)):
        of(text)


def lexists(path: pathlib.Path) -> bool:
  """Returns whether there is anything of this name, a broken link included."""
  return path.exists() if isinstance(path, Url) else os.path.lexists(path)


def has_folder(path: pathlib.Path) -> bool:
  """Returns whether a file of this name can be made: its folder is there."""
  return isinstance(path, Url) or path.parent.is_dir()


def on_disk(where: str | os.PathLike, what: str) -> pathlib.Path:
  """Makes a path of this machine, for what does not work with URLs.

  Args:
    where: what a user gives.
    what: what must be a path of this machine, such as "the folder of a job".

  Raises:
    UserError: it is a URL.
  """
  path = of(where)
  if isinstance(path, Url):
    raise UserError(
      f"{path}: {what} must be on a disk of this machine; give a path there, or"
      " mount the bucket."
    )
  return path


def real(where: str | os.PathLike) -> pathlib.Path:
  """Makes an absolute path that leads through no links."""
  path = of(where)
  return path if isinstance(path, Url) else pathlib.Path(os.path.realpath(path))


def move(file: pathlib.Path, target: pathlib.Path) -> None:
  """Renames a file of this machine, or uploads it if the target is a URL."""
  if isinstance(target, Url):
    target.upload(file)
  else:
    os.rename(file, target)


def sizes(folder: pathlib.Path) -> dict[str, int]:
  """Returns the bytes of all files in a folder and below, by relative name."""
  if isinstance(folder, Url):
    return {name: int(info["size"]) for name, info in folder.files().items()}
  found = (path for path in folder.rglob("*") if path.is_file())
  return {
    path.relative_to(folder).as_posix(): path.stat().st_size for path in found
  }


def remove(folder: pathlib.Path) -> None:
  """Removes a folder with all that is in it, if it is there."""
  if isinstance(folder, Url):
    folder.remove()
  else:
    shutil.rmtree(folder, ignore_errors=True)
