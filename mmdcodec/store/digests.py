"""A digest of the files in a folder, which shows later damage.

    FOLDER/digest.json  {"state/_METADATA": [size in bytes, SHA-256], ...}

It covers the files in subfolders; files beside it may change. In an object
store, what the store says about each object takes the place of the SHA-256, so
that nothing has to be read again: "ETag ..." or "md5Hash ...".
"""

import concurrent.futures
import hashlib
import os
import pathlib

from mmdcodec.errors import UserError
from mmdcodec.store import atomic, inputs, paths, urls

FILE = "digest.json"

# Files up to this size are always read: those that say what is in the others.
_SMALL = 1 << 16


def write(folder: str | os.PathLike) -> None:
  """Writes the digest of a finished folder.

  Raises:
    OSError: a file cannot be read, or the folder cannot be written to.
  """
  folder = paths.of(folder)
  if isinstance(folder, paths.Url):
    said = {
      name: [info["size"], urls.content_of(info)]
      for name, info in folder.files().items()
      if "/" in name
    }
    atomic.write_json(folder / FILE, said, indent=0)
    return
  files = {
    path.relative_to(folder).as_posix(): path
    for path in sorted(folder.glob("*/**/*"))
    if path.is_file()
  }
  # Hashing does not hold the interpreter's lock.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    hashes = pool.map(_hash, files.values())
    found = {
      name: [path.stat().st_size, digest]
      for (name, path), digest in zip(files.items(), hashes, strict=True)
    }
  atomic.write_json(folder / FILE, found, indent=0)


def damage(
  folder: str | os.PathLike, *, complete: bool = True, within: str = ""
) -> str | None:
  """Compares a folder with its digest.

  Args:
    folder: a folder; one without a digest passes.
    complete: whether to read all files; otherwise only the small ones, and the
      sizes of the others.
    within: a subfolder, whose files alone are compared.

  Returns:
    What is wrong with the first damaged file, or None.

  Raises:
    OSError: a file cannot be read, for another reason than being absent.
  """
  folder = paths.of(folder)
  if not (folder / FILE).is_file():
    return None
  try:
    expected = {
      name: (int(size), str(digest))
      for name, (size, digest) in inputs.read_object(folder / FILE).items()
      if name.startswith(within)
    }
  except (UserError, TypeError, ValueError, OverflowError):
    return f"its {FILE} cannot be read"
  infos = folder.files() if isinstance(folder, paths.Url) else None
  read = []
  try:
    for name, (size, digest) in expected.items():
      if infos is None:
        found = (folder / name).stat().st_size
      elif name in infos:
        found = infos[name]["size"]
      else:
        return f"{name} is missing"
      if found != size:
        return f"{name} has {found} bytes instead of {size}"
      if " " in digest or not digest:
        # It was written to a store. In another one, or on a disk, after a copy,
        # only the size can be compared.
        now = urls.content_of(infos[name]) if infos is not None else ""
        if now.partition(" ")[0] == digest.partition(" ")[0] and now != digest:
          return f"{name} differs from its digest"
      elif complete or size <= _SMALL:
        read.append(name)
    with concurrent.futures.ThreadPoolExecutor() as pool:
      hashes = pool.map(_hash, [folder / name for name in read])
      for name, digest in zip(read, hashes, strict=True):
        if digest != expected[name][1]:
          return f"{name} differs from its digest"
  except (FileNotFoundError, NotADirectoryError) as error:
    # Perhaps only just: a training removes its older checkpoints.
    return f"{os.path.relpath(error.filename, folder)} is missing"
  return None


def _hash(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
