"""Runs jobs in stages; an interrupted job continues where it stopped.

Every stage declares its settings. WORKDIR/stages.json records which stages are
finished, with which settings, and of which runs of the stages that they need.
Running the same command again skips finished stages, continues interrupted
ones, and refuses to mix different settings. Two commands may share a workdir
and its first stages: what one of them makes anew, the other builds on. Only
outputs of stages in stages.json are deleted, because a workdir may hold other
files as well.
"""

import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmdcodec import formatting
from mmdcodec.errors import UserError
from mmdcodec.store import atomic, disk, inputs, locks, renamed

FILE = "stages.json"

# Flushed so that a log always shows the current stage.
_log = functools.partial(print, flush=True)


def note(line: str) -> None:
  """Prints a line of a stage that runs, below the line with its name."""
  _log(f"  {line}")


@dataclasses.dataclass(frozen=True)
class Stage:
  """One step of a job.

  Attributes:
    name: short name, unique in the job.
    run: does the work and returns a few words about the result.
    settings: JSON-compatible values, everything that changes the result. The
      settings of the stages in `needs` count as well.
    outputs: files or folders that only `run` makes.
    resumes: whether `run` continues from the outputs of an interrupted run.
      Otherwise they are deleted before it starts again.
    needs: names of the stages that it depends on; None: all before it.
    stop: makes `run` return early when it runs in another thread, as under
      `run_stages(workers=...)`.
  """

  name: str
  run: Callable[[], str]
  settings: Mapping[str, Any]
  outputs: Sequence[pathlib.Path]
  resumes: bool = False
  needs: Sequence[str] | None = None
  stop: Callable[[], None] = lambda: None


def run_stages(
  workdir: pathlib.Path,
  stages: Sequence[Stage],
  *,
  force: bool | None = False,
  workers: int = 1,
  log: Callable[[str], None] = _log,
) -> float:
  """Runs the stages that are not done yet.

  Args:
    workdir: folder of the job; made if missing.
    stages: stages, each after those that it needs.
    force: whether to redo stages with changed settings, and those that need
      them. None: the command has no --force, so the error does not mention it.
    workers: number of stages that run at a time, each in a thread; 1 runs them
      in this thread.
    log: called with each line of text.

  Returns:
    The seconds that all stages took, in this run and in earlier ones.

  Raises:
    UserError: existing work has other settings, without force; an output exists
      that no stage made; or another process works in workdir.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  with disk.named(workdir), locks.exclusive(workdir):
    job = _Job(workdir, stages, log)
    job.check(force)
    if workers == 1:
      job.run()
    else:
      job.run_in_threads(workers)
    return sum(job.known[stage.name]["seconds"] for stage in stages)


def adopt(
  workdir: pathlib.Path, settings: Mapping[str, Any], stages: Sequence[Stage]
) -> None:
  """Takes over an experiment of version 0.1, which wrote no stages.json.

  Call it before `run_stages`. Stages whose outputs all exist count as done.

  Args:
    workdir: folder of the experiment, with its settings in experiment.json.
    settings: settings of this run.
    stages: stages of this run.

  Raises:
    UserError: the experiment has other settings.
  """
  path = workdir / "experiment.json"
  if (workdir / FILE).exists() or not path.exists():
    return
  before = inputs.read_json(path)
  renamed.update(before)
  if words := _difference(before, _plain(settings)):
    raise UserError(
      f"{workdir} was begun with other settings ({words}); give another"
      " workdir."
    )
  known = {
    stage.name: {
      "settings": _plain(stage.settings),
      "done": all(output.exists() for output in stage.outputs),
      "seconds": 0.0,
      "result": "by version 0.1",
    }
    for stage in stages
    if any(output.exists() for output in stage.outputs)
  }
  atomic.write_json(workdir / FILE, known)


def seconds_of(
  workdir: pathlib.Path, stages: Sequence[str]
) -> dict[str, float]:
  """Returns the seconds that those stages took that are finished, by name."""
  known = _read(workdir)
  done = [name for name in stages if known.get(name, {}).get("done")]
  return {name: known[name]["seconds"] for name in done}


def settings_of(workdir: pathlib.Path) -> dict[str, dict]:
  """Returns the settings of each stage that ever began, by name."""
  return {k: entry["settings"] for k, entry in _read(workdir).items()}


class _Job:
  """The stages of one run and their records in stages.json.

  Attributes:
    known: name -> {"settings", "done", "seconds", "result" once done; "run", an
      id of this run of the stage, "of", those of the stages that it needs}.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    stages: Sequence[Stage],
    log: Callable[[str], None],
  ) -> None:
    self.known = _read(workdir)
    self._workdir, self._stages, self._log = workdir, list(stages), log
    names = [stage.name for stage in stages]
    self._needs = {
      stage.name: set(names[:i] if stage.needs is None else stage.needs)
      for i, stage in enumerate(stages)
    }
    self._label = {
      name: f"[{i}/{len(names)}] {name}" for i, name in enumerate(names, 1)
    }

  def check(self, force: bool | None) -> None:
    """Rejects changed settings and foreign files; see `run_stages`."""
    for stage in self._stages:
      self._check_ours(stage)
    for stage in self._stages:
      words = self._change(stage)
      if words and not force:
        advice = "give another workdir"
        if force is not None:
          advice += (
            f", or --force to do over stage {stage.name!r} and those that"
            " need it"
          )
        raise UserError(
          f"{self._workdir} was begun with other settings ({words}); {advice}."
        )
      if words:
        self._forget([stage, *self._dependents(stage)])

  def run(self) -> None:
    """Runs the stages one after the other."""
    for stage in self._stages:
      if self._begin(stage):
        start = time.perf_counter()
        result = None
        try:
          result = stage.run()
        finally:
          self._end(stage, time.perf_counter() - start, result)

  def run_in_threads(self, workers: int) -> None:
    """Runs up to `workers` stages at a time; an error stops them all."""
    left, active = list(self._stages), {}
    start, number = time.monotonic(), 0
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
      try:
        while left or active:
          for stage in [*left]:
            waiting = {each.name for each in (*left, *active.values())}
            if len(active) == workers:
              break
            if self._needs[stage.name] & waiting:
              continue
            left.remove(stage)
            if self._begin(stage):
              active[pool.submit(_timed, stage.run)] = stage
          done = concurrent.futures.wait(
            active, return_when=concurrent.futures.FIRST_COMPLETED
          ).done
          for future in done:
            stage = active.pop(future)
            seconds, result = future.result()
            self._end(stage, seconds, result)
            number += 1
            if rest := len(left) + len(active):
              spent = time.monotonic() - start
              eta = formatting.duration(spent / number * rest)
              self._log(f"  {rest} stages and {eta} left")
      finally:
        for stage in active.values():
          stage.stop()

  def _begin(self, stage: Stage) -> bool:
    """Prepares a stage and records its start; returns False if it is done."""
    label, entry = self._label[stage.name], self.known.get(stage.name, {})
    needs = self._needs[stage.name]
    of = {name: self.known.get(name, {}).get("run") for name in needs}
    # Another command may have made what it needs anew. Earlier versions gave
    # runs no ids, and did not note what a stage was made of.
    before = entry.get("of", dict.fromkeys(needs)) if entry else of
    changed = sorted(k for k, run in of.items() if before.get(k, run) != run)
    # If outputs were deleted by hand, dependent stages run again too.
    whole = all(path.exists() for path in stage.outputs)
    if entry.get("done") and whole and not changed:
      self._log(f"{label}: done before: {entry['result']}")
      return False
    keep = stage.resumes and bool(entry) and not changed
    # No stage may build on outputs that are about to be replaced.
    self._forget([*([] if keep else [stage]), *self._dependents(stage)])
    self._check_ours(stage)
    self.known[stage.name] = {
      "settings": _plain(stage.settings),
      "done": False,
      "seconds": entry.get("seconds", 0.0) if keep else 0.0,
      "run": secrets.token_hex(4),
      "of": of,
    }
    self._write()
    why = f" again, because of {', '.join(changed)}" if changed else ""
    self._log(f"{label}{why} ...")
    return True

  def _end(self, stage: Stage, seconds: float, result: str | None) -> None:
    """Records the time that a stage took and, if it finished, its result."""
    entry = self.known[stage.name]
    spent = entry["seconds"] + seconds
    entry["seconds"] = round(spent, 2)
    if result is not None:
      entry.update(done=True, result=result)
    self._write()
    if result is not None:
      took = formatting.duration(spent)
      self._log(f"{self._label[stage.name]}: {result} ({took})")

  def _dependents(self, stage: Stage) -> list[Stage]:
    """Returns the stages that need a stage, directly or indirectly."""
    names, found = {stage.name}, []
    for other in self._stages:
      if self._needs[other.name] & names:
        names.add(other.name)
        found.append(other)
    return found

  def _change(self, stage: Stage) -> str:
    """Describes how a stage's settings differ from those of its earlier run."""
    if stage.name not in self.known:
      return ""
    before = self.known[stage.name]["settings"]
    words = _difference(before, _plain(stage.settings))
    return words and f"{stage.name}: {words}"

  def _check_ours(self, stage: Stage) -> None:
    """Checks that a stage that never began replaces no other files.

    Raises:
      UserError: one of its outputs exists.
    """
    for path in stage.outputs:
      if stage.name not in self.known and os.path.lexists(path):
        raise UserError(
          f"{path} was not made by this command, which would replace it; give"
          " an empty workdir."
        )

  def _forget(self, stages: Sequence[Stage]) -> None:
    """Deletes the outputs of those stages that ever began."""
    stages = [stage for stage in stages if stage.name in self.known]
    # Recorded first: a half-deleted output must not count as done.
    for stage in stages:
      self.known[stage.name]["done"] = False
    self._write()
    for stage in stages:
      for path in stage.outputs:
        if path.is_dir() and not path.is_symlink():
          shutil.rmtree(path)
        else:
          path.unlink(missing_ok=True)
      del self.known[stage.name]
    self._write()

  def _write(self) -> None:
    atomic.write_json(self._workdir / FILE, self.known)


def _timed(run: Callable[[], str]) -> tuple[float, str]:
  """Returns the seconds that a call took, and its result."""
  start = time.perf_counter()
  result = run()
  return time.perf_counter() - start, result


def _difference(before: Mapping, now: Mapping, prefix: str = "") -> str:
  """Describes the first three differences, as in `steps was 600, is 100`.

  Keys that only one side has are ignored where settings are a config, and in
  nested ones: a new version of the program added or removed them, not the user.
  """
  found = []
  config = "task" in before and "task" in now
  keys = {*before} & {*now} if prefix or config else {*before, *now}
  for key in sorted(keys):
    old, new = before.get(key), now.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
      inner = _difference(old, new, f"{prefix}{key}.")
      found += [inner] if inner else []
    elif old != new:
      found.append(f"{prefix}{key} was {old!r}, is {new!r}")
  return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")


def _plain(settings: Mapping) -> dict:
  """Converts settings as JSON does: tuples become lists."""
  return json.loads(json.dumps(settings))


def _read(workdir: pathlib.Path) -> dict[str, dict]:
  """Reads stages.json.

  Raises:
    UserError: it is damaged.
  """
  path = workdir / FILE
  if not path.exists():
    return {}
  try:
    known = inputs.read_json(path)
    renamed.update(known)
    if not all({"settings", "done"} <= {*entry} for entry in known.values()):
      raise ValueError("it does not list stages")
  except (ValueError, AttributeError, TypeError) as error:
    raise UserError(
      f"{path} is damaged ({error}); give another workdir."
    ) from None
  return known
