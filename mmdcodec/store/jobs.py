"""A job in stages that continues where it was left.

Every stage says with which settings it works. What was finished, and with
which settings, is kept in WORKDIR/stages.json, so that the same command again
skips what is done, goes on with what was interrupted, and refuses to mix work
of different settings. Nothing is deleted that stages.json does not know: a
workdir may be a folder with other things in it.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from mmdcodec import formatting
from mmdcodec.errors import UserError

FILE = "stages.json"
LOCK = "stages.lock"

# Flushed: a log that is read while the job goes on must not lag behind it.
_log = functools.partial(print, flush=True)


@dataclasses.dataclass(frozen=True)
class Stage:
  """One step of a job.

  Attributes:
    name: short, unique in the job.
    run: does the work; returns what there is now, in a few words.
    settings: JSON-able; with other settings the result would be another. The
      settings of all stages before count as well.
    outputs: files or folders that `run` makes, and nobody else.
    resumes: `run` continues from outputs that an interrupted run left; those
      of other stages are deleted before they start again.
  """

  name: str
  run: Callable[[], str]
  settings: Mapping
  outputs: Sequence[pathlib.Path]
  resumes: bool = False


def run_stages(
  workdir: pathlib.Path,
  stages: Sequence[Stage],
  *,
  force: bool = False,
  log: Callable[[str], None] = _log,
) -> float:
  """Runs what is not done yet, in order.

  Args:
    workdir: of the job; made if missing.
    stages: each one may need all of those before it.
    force: do over stages whose settings changed, and those after them.
    log: takes one line of text.

  Returns:
    The seconds that all stages took, in this run and in earlier ones.

  Raises:
    UserError: finished or begun work has other settings, and not force; an
      output is there that no stage made; another process works in workdir.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  with _locked(workdir):
    return _run(workdir, list(stages), force, log)


def _run(workdir, stages, force, log) -> float:
  """See `run_stages`."""
  known = _read(workdir)
  for stage in stages:
    _check_ours(stage, known)
  changed = _first_change(stages, known)
  if changed is not None:
    index, words = changed
    if not force:
      raise UserError(
        f"{workdir} was begun with other settings ({words}); give another"
        " workdir, or --force to do over stage"
        f" {stages[index].name!r} and those after it."
      )
    _forget(workdir, stages[index:], known)
  redo = False
  for number, stage in enumerate(stages, 1):
    label = f"[{number}/{len(stages)}] {stage.name}"
    entry = known.get(stage.name, {})
    # Outputs can be deleted by hand; then what follows is made again, too.
    whole = all(path.exists() for path in stage.outputs)
    if entry.get("done") and whole and not redo:
      log(f"{label}: done before: {entry['result']}")
      continue
    keep = stage.resumes and entry and not redo
    redo = True
    # Stages after this one rest on what is about to be replaced.
    _forget(workdir, stages[number - (not keep) :], known)
    _check_ours(stage, known)
    spent = entry.get("seconds", 0.0) if keep else 0.0
    entry = {"settings": _plain(stage.settings), "done": False}
    known[stage.name] = {**entry, "seconds": spent}
    _write(workdir, known)
    log(f"{label} ...")
    start = time.perf_counter()
    try:
      result = stage.run()
    finally:
      spent += time.perf_counter() - start
      known[stage.name]["seconds"] = round(spent, 2)
      _write(workdir, known)
    known[stage.name].update(done=True, result=result)
    _write(workdir, known)
    log(f"{label}: {result} ({formatting.duration(spent)})")
  return sum(known[stage.name]["seconds"] for stage in stages)


def seconds_of(workdir: pathlib.Path) -> dict[str, float]:
  """Seconds that each finished stage took, by name."""
  known = _read(workdir)
  return {k: entry["seconds"] for k, entry in known.items() if entry["done"]}


def _first_change(stages, known) -> tuple[int, str] | None:
  """The first stage whose settings are not those of its earlier run."""
  for index, stage in enumerate(stages):
    if stage.name in known:
      words = _difference(known[stage.name]["settings"], _plain(stage.settings))
      if words:
        return index, f"{stage.name}: {words}"
  return None


def _difference(before: Mapping, now: Mapping, prefix: str = "") -> str:
  """`steps was 600, is 100`, for the first three differences."""
  found = []
  for key in sorted({*before, *now}):
    old, new = before.get(key), now.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
      inner = _difference(old, new, f"{prefix}{key}.")
      found += [inner] if inner else []
    elif old != new:
      found.append(f"{prefix}{key} was {old!r}, is {new!r}")
  return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")


def _plain(settings: Mapping) -> dict:
  """As JSON gives it back: tuples are lists."""
  return json.loads(json.dumps(settings))


def _check_ours(stage: Stage, known: Mapping) -> None:
  """Makes sure that a stage which never began finds nobody's files.

  Raises:
    UserError: one of its outputs exists.
  """
  for path in stage.outputs:
    if stage.name not in known and os.path.lexists(path):
      raise UserError(
        f"{path} was not made by this command, which would replace it; give"
        " an empty workdir."
      )


def _forget(workdir, stages: Sequence[Stage], known: dict) -> None:
  """Deletes what the stages that ever began have made."""
  stages = [stage for stage in stages if stage.name in known]
  # Noted first: what is half deleted must not count as done.
  for stage in stages:
    known[stage.name]["done"] = False
  _write(workdir, known)
  for stage in stages:
    for path in stage.outputs:
      if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)
    del known[stage.name]
  _write(workdir, known)


@contextlib.contextmanager
def _locked(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other processes out of a workdir, as long as this one lives.

  Raises:
    UserError: one is there already.
  """
  try:
    import fcntl
  except ImportError:  # Windows
    yield
    return
  with open(workdir / LOCK, "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f"another process works in {workdir}; wait for it, or give another one."
      ) from None
    except OSError:
      pass  # some network file systems know no locks
    yield


def _read(workdir: pathlib.Path) -> dict:
  path = workdir / FILE
  if not path.exists():
    return {}
  try:
    known = json.loads(path.read_text())
    if not all({"settings", "done"} <= {*entry} for entry in known.values()):
      raise ValueError("it does not list stages")
  except (ValueError, AttributeError, TypeError) as error:
    raise UserError(
      f"{path} is damaged ({error}); give another workdir."
    ) from None
  return known


def _write(workdir: pathlib.Path, known: dict) -> None:
  aside = workdir / (FILE + ".partial")
  aside.write_text(json.dumps(known, indent=2) + "\n")
  os.replace(aside, workdir / FILE)
