"""Converts a folder tree of files to another format."""

import collections
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmdcodec import formatting, progress
from mmdcodec.cli import common
from mmdcodec.errors import UserError
from mmdcodec.store import disk, paths

PIPE = "-"


def plan(
  folder: Path, found: Sequence[Path], out: Path, suffix: str
) -> list[tuple[Path, Path]]:
  """Chooses the name of each result.

  Args:
    folder: folder of the files.
    found: files in it, at any depth.
    out: folder of the results.
    suffix: suffix of the results.

  Returns:
    (source, target) pairs in the same tree, with the suffix replaced. If two
    targets collide (song.wav and song.mp3), the suffix is appended instead. All
    targets differ, even on case-insensitive file systems.
  """
  places = [out / path.relative_to(folder) for path in found]
  short = [place.with_suffix(suffix) for place in places]
  long = [place.with_name(place.name + suffix) for place in places]
  targets = short
  # A long name may collide with the short name of a third file (song.wav.ogg).
  while True:
    keys = [str(target).casefold() for target in targets]
    times = collections.Counter(keys)
    longer = [
      full if times[key] > 1 else target
      for key, full, target in zip(keys, long, targets, strict=True)
    ]
    if longer == targets:
      return list(zip(found, targets, strict=True))
    targets = longer


def run(
  jobs: Sequence[tuple[Path, Path]],
  work: Callable[[Path, Path], None],
  *,
  force: bool,
) -> int:
  """Converts files one at a time; a failure does not stop the others.

  Args:
    jobs: (source, target) pairs; folders of targets are created.
    work: makes a target from a source.
    force: whether to replace existing targets. (Targets appear only when they
      are complete, so an interrupted command continues where it stopped.)

  Returns:
    Exit code: 0, or 1 if some files failed.
  """
  show, failures, there = progress.counter("files"), [], 0
  for i, (source, target) in enumerate(jobs):
    show(i, len(jobs))
    if target.exists() and not force:
      there += 1
      continue
    try:
      target.parent.mkdir(parents=True, exist_ok=True)
      work(source, common.check_output(target, force=force))
    except (UserError, OSError) as error:
      if disk.full(error):
        raise  # the other files do not fit either
      failures.append((source, error))
  show(len(jobs), len(jobs))
  done = len(jobs) - there - len(failures)
  words = [f"{done} of {len(jobs)} files done"]
  if there:
    words.append(
      formatting.count(there, "was", "were")
      + " there already (--force makes them again)"
    )
  if failures:
    words.append(f"{len(failures)} failed:")
  print("; ".join(words))
  for source, error in failures:
    why = str(error)
    print(
      f"  {why}" if str(source) in why else f"  {source}: {why}",
      file=sys.stderr,
    )
  return 1 if failures else 0


def check_folders(
  source: Path, target: str | os.PathLike, suffixes: tuple[str, ...]
) -> Path:
  """Checks the output folder for the results of an input folder.

  Args:
    source: input folder.
    target: output folder.
    suffixes: suffixes of files that the command writes.

  Raises:
    UserError: the target is a file, named like one, a pipe, or the source.
  """
  if target == PIPE:
    raise UserError(f"{source} is a folder; its files cannot go to one pipe.")
  out = paths.of(target)
  file_name = not out.is_dir() and out.suffix.lower() in suffixes
  if file_name or (out.exists() and not out.is_dir()):
    raise UserError(f"{source} is a folder, so {out} must be one, not a file.")
  if out.resolve() == source.resolve():
    raise UserError(f"{out} is the input; give another folder for the results.")
  return out
