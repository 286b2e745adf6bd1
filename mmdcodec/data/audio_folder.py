"""Finds readable audio in a folder of the user, and splits it."""

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Sequence

from mmdcodec import progress
from mmdcodec.audio import files
from mmdcodec.errors import UserError


def find(folder: pathlib.Path, workdir: pathlib.Path) -> list[pathlib.Path]:
  """Finds the audio in a folder, except in a workdir inside it."""
  paths = files.find(folder)
  if workdir.is_relative_to(folder):
    paths = [path for path in paths if not path.is_relative_to(workdir)]
  return paths


def split_files(
  paths: Sequence, root: pathlib.Path, *, test: bool = True
) -> dict[str, list]:
  """Splits files by a hash of their names, so that the result never changes.

  Args:
    paths: paths of audio files.
    root: folder that the names are relative to.
    test: whether to hold out files for a final test.

  Returns:
    `train`, `valid` and, if requested, `test`: a tenth of the files (1 to 12)
    for test, a twentieth (1 to 4) for validation, the rest for training.
    Without test, fewer than 4 files are all used for training.

  Raises:
    UserError: there are too few files.
  """
  if len(paths) < (3 if test else 1):
    raise UserError(
      f"{root} has {len(paths)} readable audio files; expected at least"
      + (" 3, for training, validation and test." if test else " 1.")
    )

  def order(path: pathlib.Path) -> str:
    name = pathlib.PurePath(os.path.relpath(path, root)).as_posix()
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()

  ordered = sorted(paths, key=order)
  counts = {"test": min(12, max(1, len(paths) // 10)) if test else 0}
  counts["valid"] = min(4, max(1, len(paths) // 20))
  if not test and len(paths) < 4:
    counts["valid"] = 0
  found = {}
  for name, count in counts.items():
    found[name], ordered = sorted(ordered[:count]), ordered[count:]
  found["train"] = sorted(ordered)
  return found if test else {k: found[k] for k in ("train", "valid")}


def readable_files(paths: Sequence) -> tuple[list, int]:
  """Returns the files that can be read to their end, and how many cannot.

  A split may consist of a single file; if it were broken, the job would fail
  only at its end.
  """

  def problem(path: pathlib.Path) -> UserError | None:
    try:
      # The last second, because incomplete downloads lack their end.
      files.read(path, start=max(0.0, files.info(path).seconds - 1))
    except UserError as error:
      return error
    return None

  good, show = [], progress.counter("files checked")
  # Reading and decoding release the interpreter lock.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for done, error in enumerate(pool.map(problem, paths), 1):
      if error is None:
        good.append(paths[done - 1])
      else:
        print(f"  left out: {error}", flush=True)
      show(done, len(paths))
  return good, len(paths) - len(good)


def fingerprint(paths: Sequence, root: pathlib.Path) -> str:
  """Hashes the names, sizes and dates of files to 16 hex digits."""
  digest = hashlib.sha256()
  for path in paths:
    status = path.stat()
    name = os.path.relpath(path, root)
    line = f"{name} {status.st_size} {status.st_mtime_ns}\n"
    # Names of files need not be UTF-8.
    digest.update(line.encode(errors="surrogateescape"))
  return digest.hexdigest()[:16]
