"""A folder of the user's music: which files are sound, and what each is for."""

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Sequence

from mmdcodec import progress
from mmdcodec.errors import UserError


def split_files(
  paths: Sequence, root: pathlib.Path, *, test: bool = True
) -> dict[str, list]:
  """Which file is for what: by a hash of its name, so always the same.

  Args:
    paths: of audio files.
    root: their names are relative to it.
    test: whether some are held out for the end.

  Returns:
    `train`, `valid` and, if asked for, `test`: a tenth of the files is for test
    (1 to 12), a twentieth for valid (1 to 4), the rest to train on. Without
    test, fewer than 4 files are all to train on.

  Raises:
    UserError: there are too few files.
  """
  if len(paths) < (3 if test else 1):
    raise UserError(
      f"{root} has {len(paths)} audio files that can be read; at least"
      + (
        " 3 are needed, to train on, to watch the training, and to hold out."
        if test
        else " 1 is needed."
      )
    )

  def order(path) -> str:
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


def readable(paths: Sequence) -> tuple[list, int]:
  """Which files can be opened and read at their end; how many can't.

  A split may be one file: were that one broken, the job would fail at the end.
  """
  from mmdcodec.audio import files

  def problem(path) -> UserError | None:
    try:
      # The last second: what a broken download lacks is its end.
      files.read(path, start=max(0.0, files.info(path).seconds - 1))
    except UserError as error:
      return error

  good, show = [], progress.counter("files looked at")
  # Reading and decoding let other threads run.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for done, error in enumerate(pool.map(problem, paths), 1):
      if error is None:
        good.append(paths[done - 1])
      else:
        print(f"  left out: {error}", flush=True)
      show(done, len(paths))
  return good, len(paths) - len(good)


def fingerprint(paths: Sequence, root: pathlib.Path) -> str:
  """16 hex digits of the names, sizes and dates of files."""
  digest = hashlib.sha256()
  for path in paths:
    status = path.stat()
    name = os.path.relpath(path, root)
    digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
  return digest.hexdigest()[:16]
