"""Reads files that users give: regular files of sane size, texts, JSON.

Every reader of an input file begins here. A named pipe waits for ever if it is
opened, a device may never end, and a text of gigabytes fills the memory, so
these are refused before anything is read.
"""

import codecs
import json
import os
import stat
from pathlib import Path
from typing import IO, Any

from mmdcodec import formatting
from mmdcodec.errors import UserError
from mmdcodec.store import paths

# Bytes of the largest text that is read at once. Parsed JSON may take twenty
# times as much memory.
MOST_TEXT = 32 << 20

# Bytes of the largest table, or list of notes on one.
MOST_ROWS = 1 << 30

# Levels of the deepest JSON. Python's parser and printer fail at about 1000,
# less if they are called from deep inside a program.
MOST_LEVELS = 64

# The beginning of what git-lfs keeps in the place of a large file.
_POINTER = b"version https://git-lfs"

_KINDS = {
  stat.S_IFDIR: "a folder",
  stat.S_IFIFO: "a pipe",
  stat.S_IFSOCK: "a socket",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
}


def check(
  path: str | os.PathLike, *, most: int | None = None, advice: str = ""
) -> Path:
  """Checks that a path is a regular file, or a link to one.

  Args:
    path: the path; it is not opened.
    most: bytes of the largest file allowed; None for any size.
    advice: what to do with a pipe; by default, copy it to a file.

  Returns:
    The path.

  Raises:
    UserError: it is missing, cannot be reached, is something else or larger.
  """
  path = paths.of(path)
  try:
    found = path.stat()
  except FileNotFoundError:
    what = "is a broken link" if path.is_symlink() else "no such file"
    raise UserError(f"{path}: {what}.") from None
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: {_unreadable(error)}.") from None
  if not stat.S_ISREG(found.st_mode):
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
    ending = "expected a file"
    if stat.S_ISFIFO(found.st_mode):
      ending = advice or "copy what it gives to a file"
    raise UserError(f"{path}: is {kind}; {ending}.")
  if most is not None and found.st_size > most:
    raise UserError(
      f"{path}: has {formatting.file_size(found.st_size)}; expected at most"
      f" {formatting.file_size(most)}."
    )
  return path


def check_name(folder: str | os.PathLike) -> None:
  """Checks the name of a folder of shards or checkpoints, in or out.

  The libraries in C++ that read and write those take only UTF-8.

  Raises:
    UserError: a folder on its path has a name in another encoding.
  """
  path = paths.of(folder)
  place = str(path) if isinstance(path, paths.Url) else os.path.abspath(path)
  if not formatting.is_utf8(place):
    raise UserError(f"{place!r} is not in UTF-8; give the folder another name.")


def open_file(path: str | os.PathLike, *, most: int | None = None) -> IO[bytes]:
  """Opens a regular file for reading bytes.

  Raises:
    UserError: as in `check`, or it may not be read, or git-lfs has not yet put
      the file in the place of its pointer.
  """
  path = check(path, most=most)
  try:
    file = path.open("rb")
    is_pointer = file.peek(len(_POINTER)).startswith(_POINTER)
  except OSError as error:
    raise UserError(f"{path}: {_unreadable(error)}.") from None
  if is_pointer:
    file.close()
    raise UserError(
      f"{path}: is a pointer of git-lfs, not the file itself; run git lfs pull."
    )
  return file


def read_bytes(path: str | os.PathLike, *, most: int = MOST_TEXT) -> bytes:
  """Reads a whole regular file.

  Raises:
    UserError: as in `open_file`.
  """
  with open_file(path, most=most) as file:
    try:
      return file.read()
    except OSError as error:
      raise UserError(f"{path}: {_unreadable(error)}.") from None


def encoding_of(head: bytes) -> str:
  """Returns the encoding of a text by the mark at its beginning.

  UTF-8 unless the mark is that of UTF-16, which Windows calls "Unicode".
  """
  wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  return "utf-16" if wide else "utf-8-sig"


def read_text(path: str | os.PathLike, *, most: int = MOST_TEXT) -> str:
  """Reads a text file in UTF-8, or in UTF-16 with a mark.

  Raises:
    UserError: as in `open_file`, or the text has another encoding.
  """
  data = read_bytes(path, most=most)
  try:
    return data.decode(encoding_of(data))
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise UserError(
      f"{path}: line {line} is not in UTF-8; save the file in UTF-8."
    ) from None


def parse_json(text: str, name: str | os.PathLike) -> Any:
  """Parses a JSON document.

  Args:
    text: the document.
    name: its name in messages.

  Raises:
    UserError: it is not JSON, or nests too many levels.
  """
  try:
    found = json.loads(text)
    if text.count("[") + text.count("{") > MOST_LEVELS:
      _check_levels(found)
  except RecursionError:
    raise UserError(
      f"{name}: its JSON nests more than {MOST_LEVELS} levels."
    ) from None
  except ValueError as error:
    raise UserError(f"{name}: cannot be read as JSON ({error}).") from None
  return found


def read_json(path: str | os.PathLike, *, most: int = MOST_TEXT) -> Any:
  """Reads a JSON file.

  Raises:
    UserError: as in `read_text` and `parse_json`.
  """
  return parse_json(read_text(path, most=most), path)


def read_object(
  path: str | os.PathLike, *, most: int = MOST_TEXT
) -> dict[str, Any]:
  """Reads a JSON file that holds an object.

  Raises:
    UserError: as in `read_json`, or it holds something else.
  """
  found = read_json(path, most=most)
  if not isinstance(found, dict):
    raise UserError(f"{path}: holds {kind_of(found)}; expected a JSON object.")
  return found


def kind_of(value: Any) -> str:
  """Names the kind of a JSON value: "a list", "a number", ..."""
  if value is None or isinstance(value, bool):
    return json.dumps(value)
  kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
  return kinds.get(type(value), "a number")


def _check_levels(value: Any) -> None:
  """Raises RecursionError if JSON nests too many levels."""
  level = [value]
  for _ in range(MOST_LEVELS + 1):
    level = [
      item
      for each in level
      if isinstance(each, (dict, list))
      for item in (each.values() if isinstance(each, dict) else each)
    ]
    if not level:
      return
  raise RecursionError


def _unreadable(error: Exception) -> str:
  """Why a path cannot be read."""
  reason = getattr(error, "strerror", None) or error
  return f"cannot be read ({reason})"
