"""Trainings and their workdirs."""

import damage
import numpy as np
import samples
from trial import FELL_BACK, REFUSED, RIGHT, Trial, require
from wounds import SAID, finite, known, same, wound_file


def config(trial: Trial) -> str:
  """Trainings with one or two settings that make no sense."""
  from mmdcodec import bundle as bundle_lib
  from mmdcodec.store import metrics

  workdir = trial.folder / "run"
  argv = samples.train_command(trial.samples, workdir)
  keys = known("keys", lambda: _keys(argv))
  more = ["--config.steps=2", "--config.save_every=2", "--config.eval_every=2"]
  if trial.chance(0.7):  # the evaluation compiles for as long as a step
    more.append("--config.data.valid=")
  for _ in range(trial.rng.integers(1, 3)):
    key = trial.pick(sorted(keys))
    value = _setting(trial, key, keys[key])
    if key == "steps" and value.strip().isdigit() and int(value) > 3:
      value = "nan"
    more.append(f"--config.{key}={value}")
    trial.words.append(more[-1])
  if trial.chance(0.05):
    more.append("--config.no.such.key=1")
  if trial.chance(0.9):
    # The step is traced; to compile it would take most of the time.
    run = trial.call(lambda: _traced([str(a) for a in (*argv, *more)]))
    return REFUSED if trial.refused(run) else RIGHT
  run = trial.run(*argv, *more)
  if trial.refused(run):
    return REFUSED
  require(run.code == 0, f"{run}")
  rows = metrics.read(workdir)
  if not rows:
    require(run.out.strip() or run.err.strip(), "nothing was done or said")
    return RIGHT
  found = trial.call(lambda: bundle_lib.read(workdir))
  require(found.code == 0, f"trained, but not opened: {found.err}")
  finite(found.value.variables)
  return RIGHT


class _Enough(Exception):
  """The first step was traced."""


def _traced(argv):
  """Starts a training and traces its first step, but compiles nothing."""
  import dataclasses

  import jax

  from mmdcodec.cli import main
  from mmdcodec.train import loop

  make = loop.make_program

  def short(*args):
    program = make(*args)

    def trace(state, batch, phase=None):
      jax.eval_shape(lambda *xs: program.step(*xs, phase), state, batch)
      raise _Enough

    zeros = lambda x: np.zeros(x.shape, x.dtype) if x.size < 1e8 else x
    init = lambda key: jax.tree.map(zeros, program.abstract)
    return dataclasses.replace(
      program, init=init, step=trace, long_step=program.long_step and trace
    )

  loop.make_program = short
  try:
    code = main.main(argv)
  except _Enough:
    return None
  finally:
    loop.make_program = make
  if code:
    raise SystemExit(code)


def _keys(argv):
  from mmdcodec.train import config_files, settings

  plain = settings.plain(
    config_files.parse([a for a in argv[1:] if a.startswith("--config")])
  )

  def walk(value, path):
    for key, inside in value.items():
      yield f"{path}{key}", inside
      if isinstance(inside, dict):
        yield from walk(inside, f"{path}{key}.")

  # Paths are no settings of the arithmetic, and caches are shared.
  left_out = ("compilation_cache", "profile", "task")
  # A group cannot follow one of its keys on the command line.
  groups = [a.split("=")[0].removeprefix("--config.") for a in argv]
  return {
    k: v
    for k, v in walk(plain, "")
    if not k.startswith(left_out)
    and not any(group.startswith(f"{k}.") for group in groups)
  }


def _setting(trial, key, old):
  if isinstance(old, int | float) and trial.chance(0.4):
    by = trial.pick([0, -1, 0.5, 2, 10, 1000, 1e6, 1e30, 1e-30])
    value = old * by if trial.chance(0.7) else by
    return str(
      int(value) if isinstance(old, int) and abs(value) < 1e18 else value
    )
  value = damage.VALUES[trial.rng.integers(len(damage.VALUES))]
  text = value if isinstance(value, str) else repr(value)
  return text.encode("utf-8", "replace").decode().replace("\0", "?")


def checkpoint(trial: Trial) -> str:
  """Workdirs with a damaged file: exported, described, trained further."""
  from mmdcodec import bundle as bundle_lib

  path = trial.copy("run")
  steps = path / "checkpoints"
  every = sorted(p for p in path.rglob("*") if p.is_file())
  newest = [p for p in every if p.is_relative_to(steps / "6")]
  if trial.chance(0.1):
    made = steps / trial.pick(["7", "99999", "6.orbax-checkpoint-tmp", "x"])
    made.mkdir()
    trial.words.append(f"an empty folder {made.name}")
  else:
    wound_file(trial, trial.pick(newest if trial.chance(0.6) else every))
  operation = trial.pick(["export"] * 3 + ["info", "resume"])
  trial.words.append(operation)
  if operation == "info":
    run = trial.run("info", path)
    if trial.refused(run):
      return REFUSED
    return FELL_BACK if SAID.search(run.err + run.out) else RIGHT
  if operation == "export":
    out = trial.folder / "out"
    run = trial.run("export", path, out)
    if trial.refused(run, out):
      return REFUSED
    require(run.code == 0, f"{run}")
    wanted = known(
      "exported", lambda: bundle_lib.read(trial.samples / "exported")
    )
    found = bundle_lib.read(out)
    finite(found.variables)
    if same(found.variables, wanted.variables):
      return FELL_BACK if SAID.search(run.err) else RIGHT
    require(
      found.config["training"]["step"] != 6 and SAID.search(run.err + run.out),
      f"other weights without a word: {run.out}{run.err}",
    )
    return FELL_BACK
  argv = samples.train_command(trial.samples, path)
  more = ["--config.steps=8", "--config.save_every=2", "--config.eval_every=2"]
  more.append("--config.log_every=1")

  def whole():
    workdir = trial.folder / "whole"
    trial.copy("run", "whole")
    again = samples.train_command(trial.samples, workdir)
    require(trial.run(*again, *more).code == 0, "whole")
    return _last_state(workdir)

  wanted = known("resumed", whole)
  run = trial.run(*argv, *more)
  if trial.refused(run):
    return REFUSED
  require(run.code == 0, f"{run}")
  require(same(_last_state(path), wanted), f"another end:\n{run.out}{run.err}")
  return FELL_BACK if SAID.search(run.err + run.out) else RIGHT


def _last_state(workdir):
  from mmdcodec.store.checkpoints import Checkpoints

  checkpoints = Checkpoints(workdir, read_only=True)
  try:
    require(checkpoints.latest == 8, f"ended at step {checkpoints.latest}")
    return checkpoints.restore_arrays()
  finally:
    checkpoints.close()
