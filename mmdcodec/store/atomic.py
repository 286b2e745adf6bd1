"""Writes files and folders completely or not at all.

Output goes to a hidden path beside the target and is then renamed, so a reader
finds the old content or the new one, never a part.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def file(path: str | os.PathLike) -> Iterator[Path]:
  """Makes an empty file that replaces `path` if the block succeeds.

  Its name is unique. If the block fails, `path` does not change.

  Args:
    path: target; its folder must exist.

  Yields:
    Path of the file to write.

  Raises:
    OSError: the folder cannot be written to.
  """
  path = Path(path)
  # Unlike files from `tempfile`, it has the default permissions.
  partial = path.with_name(f".{secrets.token_hex(8)}.partial")
  open(partial, "xb").close()
  try:
    yield partial
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text file in UTF-8.

  Raises:
    OSError: the folder cannot be written to.
  """
  with file(path) as partial:
    partial.write_text(text, encoding="utf-8")


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
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f".{secrets.token_hex(8)}.partial")
  partial.mkdir()
  try:
    yield partial
    replace_folder(partial, path)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def replace_folder(source: Path, path: Path) -> None:
  """Moves a folder to `path`.

  Replacing a folder takes two renames. If the process is killed between them,
  the old folder is left beside `path`; `restore_folder` puts it back.

  Args:
    source: a finished folder on the same file system.
    path: target; an existing folder is deleted.
  """
  restore_folder(path)
  old = _replaced(path)
  if path.exists():
    os.rename(path, old)
  try:
    os.rename(source, path)
  finally:
    restore_folder(path)


def restore_folder(path: Path) -> None:
  """Completes or undoes a `replace_folder` that was killed."""
  old = _replaced(path)
  if path.exists():
    shutil.rmtree(old, ignore_errors=True)
  elif old.exists():
    os.rename(old, path)


def _replaced(path: Path) -> Path:
  return path.with_name(f".{path.name}.replaced")
