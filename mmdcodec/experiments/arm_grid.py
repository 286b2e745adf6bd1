"""The experiment of the independence loss: arms x seeds, table and plots.

Arms differ in `losses.independence` alone. All arms of a seed are one run until
step `start`, where the loss begins, so that part is trained once, by the arm
without the loss ("none"), and the others go on from its checkpoint. Each run is
a folder WORKDIR/ARM/seed_N as `mmdcodec train` makes it; what is finished there
is not done again when the command is given again.
"""

import copy
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from mmdcodec import formatting
from mmdcodec.errors import UserError
from mmdcodec.experiments import arm_report, arm_run
from mmdcodec.experiments.arms import ARMS, BASELINE
from mmdcodec.platform import cpus


def run(
  config: Mapping,
  workdir: str | os.PathLike,
  *,
  held_out: str,
  arms: Sequence[str],
  seeds: int = 3,
  gradient_ratio: float = 4.0,
  clips: int = 120,
  clip_seconds: float = 10.0,
  curves: bool = True,
  jobs: int | None = None,
  log: Callable = print,
) -> dict:
  """Trains and measures every arm with every seed, and writes the report.

  Args:
    config: of the codec; `data.train` and `losses.independence.start` are set.
    workdir: of the experiment.
    held_out: data sets to measure on, as `config.data.valid`.
    arms: names of ARMS.
    seeds: so many, from `config.seed` on.
    gradient_ratio: how hard the loss pulls when it begins; see `run.weight`.
    clips: to measure on.
    clip_seconds: of each.
    curves: measure earlier checkpoints as well, after all else.
    jobs: runs at a time; by default one for each CPU, or one on an accelerator.
    log: takes one line of text.

  Returns:
    {arm: {seed: result}}.

  Raises:
    UserError: a setting that can't be, or a run that failed.
  """
  config = json.loads(
    json.dumps(config.to_dict() if hasattr(config, "to_dict") else config)
  )
  workdir = pathlib.Path(workdir).absolute()
  _check(config, arms, seeds, gradient_ratio, clips, clip_seconds)
  common = dict(
    held_out=held_out, clips=clips, clip_seconds=clip_seconds, config=config
  )
  workdir.mkdir(parents=True, exist_ok=True)
  arm_run.remember(
    workdir / "experiment.json", {**common, "gradient_ratio": gradient_ratio}
  )
  numbers = range(config["seed"], config["seed"] + seeds)
  runs = {}  # folder -> the runs that it waits for
  first = workdir / BASELINE / f"seed_{numbers[0]}"
  for seed in numbers:
    base = workdir / BASELINE / f"seed_{seed}"
    for arm in dict.fromkeys((BASELINE, *arms)):
      folder = workdir / arm / f"seed_{seed}"
      folder.mkdir(parents=True, exist_ok=True)
      mine = copy.deepcopy(config)
      mine["seed"], mine["keep"] = seed, 1_000_000
      mine["losses"]["independence"].update(copy.deepcopy(ARMS[arm]))
      job = {
        **common,
        "config": mine,
        "shared": "" if arm == BASELINE else str(base),
        "gradient_ratio": 0.0 if arm == BASELINE else gradient_ratio,
        "calibrate": str(first),
      }
      arm_run.write(folder / arm_run.JOB, job)
      runs[folder] = () if arm == BASELINE else (first, base)
  jobs = jobs or default_jobs()
  _work(runs, (), arm_run.RESULT, jobs, log)
  found = arm_report.write(workdir)
  if curves:
    _work(dict.fromkeys(runs, ()), ("--curve",), arm_run.CURVE, jobs, log)
    found = arm_report.write(workdir)
  return found


def default_jobs() -> int:
  """Runs at a time: one for each CPU, or one on an accelerator."""
  # In a process of its own: this one must not take the accelerator's memory.
  found = subprocess.run(
    [sys.executable, "-c", "import jax; print(jax.default_backend())"],
    capture_output=True,
    text=True,
  )
  on_cpu = not found.returncode and found.stdout.strip().endswith("cpu")
  return cpus() if on_cpu else 1


def _check(config, arms, seeds, gradient_ratio, clips, clip_seconds) -> None:
  """What would else be found out after the training, or by each run."""
  for arm in arms:
    if arm not in ARMS:
      raise UserError(f"no arm {arm!r}; there are {', '.join(ARMS)}.")
  if seeds < 1:
    raise UserError(f"--seeds is {seeds}; it must be at least 1.")
  if not gradient_ratio > 0:
    raise UserError(
      f"--gradient_ratio is {gradient_ratio}; it must be more than 0."
    )
  if clips < 1:
    raise UserError(f"--clips is {clips}; it must be at least 1.")
  # The delay pattern leaves rows of clips with a frame for each codebook.
  model = config["model"]
  least = model["codebooks"] * math.prod(model["ratios"]) / model["rate"]
  if not clip_seconds >= least:
    raise UserError(
      f"--clip_seconds is {clip_seconds}; it must be at least {least:.3g}, so"
      f" that a clip has a frame for each of {model['codebooks']} codebooks."
    )
  start, every = arm_run.start_of(config), config["save_every"]
  if not 0 < start < config["steps"] or start % every:
    raise UserError(
      f"losses.independence.start is {start}: the arms part there, so it must"
      f" lie before the last of {config['steps']} steps and be a multiple of"
      f" save_every, {every}."
    )


def _work(runs: Mapping, options, result: str, jobs: int, log) -> None:
  """Runs processes, `jobs` at a time, until every run has its result.

  Args:
    runs: folder -> folders of the runs that must be finished before.
    options: of the command of a run.
    result: name of the file that a finished run leaves.
    jobs: processes at a time.
    log: takes one line of text.

  Raises:
    UserError: a run failed; those under way were stopped.
  """
  done = lambda folder: (folder / result).exists()
  left = [folder for folder in runs if not done(folder)]
  begin, number, active = time.monotonic(), len(left), {}
  name = lambda folder: f"{folder.parent.name} {folder.name.replace('_', ' ')}"
  try:
    while left or active:
      ready = [f for f in left if all(map(done, runs[f]))]
      while ready and len(active) < jobs:
        folder = ready.pop(0)
        left.remove(folder)
        active[folder] = _start(folder, options, jobs), time.monotonic()
        log(f"{name(folder)}: started, see {folder / 'log.txt'}")
      time.sleep(0.2)
      for folder, (process, since) in list(active.items()):
        if process.poll() is None:
          continue
        del active[folder]
        if process.returncode or not done(folder):
          last = (folder / "log.txt").read_text().strip().splitlines()[-1:]
          raise UserError(
            f"{name(folder)} failed: {' '.join(last)} ({folder / 'log.txt'})"
          )
        now = time.monotonic()
        finished = number - len(left) - len(active)
        rest = (now - begin) / finished * (number - finished)
        log(
          f"{name(folder)}: done in {formatting.duration(now - since)};"
          f" {finished}/{number}, {formatting.duration(rest)} left"
        )
  finally:
    for process, _ in active.values():
      process.terminate()
    for process, _ in active.values():
      process.wait()


def _start(folder: pathlib.Path, options, jobs: int) -> subprocess.Popen:
  """A process that does the job of a run."""
  env = dict(os.environ)
  if jobs > 1:
    # One core each: several runs side by side get more done than one run
    # on several cores.
    env["XLA_FLAGS"] = (
      env.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
      " intra_op_parallelism_threads=1"
    )
    env["OMP_NUM_THREADS"] = "1"
  # glibc gives large arrays back to the system after each use and asks for
  # them again: a quarter of a training step on a CPU is page faults then.
  env.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 << 30))
  env.setdefault("MALLOC_TRIM_THRESHOLD_", str(8 << 30))
  with (folder / "log.txt").open("a") as output:
    return subprocess.Popen(
      [
        sys.executable,
        "-m",
        arm_run.__name__,
        str(folder),
        *options,
      ],
      stdout=output,
      stderr=subprocess.STDOUT,
      env=env,
      # Ctrl-C stops this process, which tells them to save and end.
      start_new_session=True,
    )
