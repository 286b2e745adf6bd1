"""Runs the independence experiment: arms x seeds, tables and plots.

Arms differ only in `losses.independence`. Until step `start`, when the loss
begins, all arms of a seed are identical. The arm without the loss ("none")
trains that part, and the others continue from its checkpoint. Each run is a
stage of a job and has a training workdir WORKDIR/ARM/seed_N. Repeating the
command does only what is missing.
"""

import copy
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmdcodec.errors import UserError
from mmdcodec.experiments import arm_report, arm_run
from mmdcodec.experiments.arms import ARMS, BASELINE
from mmdcodec.platform import cpus
from mmdcodec.store import atomic, paths
from mmdcodec.store import jobs as job_lib
from mmdcodec.train import config_checks
from mmdcodec.train import settings as settings_lib


def run(
  config: Mapping[str, Any],
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
  log: Callable[[str], None] = print,
) -> dict[str, dict[int, dict]]:
  """Trains and measures every arm with every seed, and writes the report.

  Args:
    config: config of the codec with `data.train` and
      `losses.independence.start`.
    workdir: folder of the experiment.
    held_out: data sets to measure on, like `config.data.valid`.
    arms: names from ARMS.
    seeds: number of seeds, starting at `config.seed`.
    gradient_ratio: strength of the loss when it begins; see `arm_run.weight`.
    clips: number of clips to measure on.
    clip_seconds: length of a clip.
    curves: whether to measure earlier checkpoints at the end.
    jobs: concurrent runs; by default one per CPU, or one on an accelerator.
    log: called with one line of text.

  Returns:
    {arm: {seed: result}}.

  Raises:
    UserError: a setting is invalid or differs from the workdir's, or a run
      failed.
  """
  config = json.loads(json.dumps(settings_lib.plain(config)))
  workdir = paths.on_disk(workdir, "the folder of a job").absolute()
  _check(config, arms, seeds, gradient_ratio, clips, clip_seconds)
  jobs = jobs or default_jobs()
  common = dict(held_out=held_out, clips=clips, clip_seconds=clip_seconds)
  numbers = range(config["seed"], config["seed"] + seeds)
  runs, curve_stages = [], []
  for seed in numbers:
    for arm in dict.fromkeys((BASELINE, *arms)):
      mine = copy.deepcopy(config)
      mine["seed"], mine["keep"] = seed, 1_000_000
      mine["losses"]["independence"].update(copy.deepcopy(ARMS[arm]))
      settings = {**common, "config": mine, "gradient_ratio": 0.0}
      starts: dict[str, int] = {}
      if arm != BASELINE:
        settings["gradient_ratio"] = gradient_ratio
        # A run starts from its seed's baseline; the weight of the loss is
        # calibrated on the first seed's baseline.
        starts = {"shared": seed, "calibrate": numbers[0]}
      run = _Run(workdir, arm, settings, starts, one_core=jobs > 1)
      runs.append(run.stage())
      curve_stages.append(run.curve_stage())
  job_lib.adopt(
    workdir,
    {**common, "config": config, "gradient_ratio": gradient_ratio},
    [*runs, *curve_stages],
  )
  for stages in (runs, curve_stages if curves else []):
    job_lib.run_stages(workdir, stages, force=None, workers=jobs, log=log)
    found = arm_report.write(workdir)
  return found


def default_jobs() -> int:
  """Returns concurrent runs: one per CPU, or one on an accelerator."""
  # In a separate process: this one must not take the accelerator's memory.
  found = subprocess.run(
    [sys.executable, "-c", "import jax; print(jax.default_backend())"],
    capture_output=True,
    text=True,
  )
  on_cpu = not found.returncode and found.stdout.strip().endswith("cpu")
  return cpus() if on_cpu else 1


def _check(
  config: Mapping[str, Any],
  arms: Sequence[str],
  seeds: int,
  gradient_ratio: float,
  clips: int,
  clip_seconds: float,
) -> None:
  """Finds mistakes that would otherwise only appear after training.

  Raises:
    UserError: a setting is invalid.
  """
  config_checks.check(config)
  for arm in arms:
    if arm not in ARMS:
      raise UserError(f"no arm {arm!r}; there are {', '.join(ARMS)}.")
  if seeds < 1:
    raise UserError(f"--seeds is {seeds}; it must be at least 1.")
  if not 0 < gradient_ratio < math.inf:
    raise UserError(
      f"--gradient-ratio is {gradient_ratio}; it must be a number above 0."
    )
  if clips < 1:
    raise UserError(f"--clips is {clips}; it must be at least 1.")
  # Under the delay pattern, a clip needs a frame for each codebook.
  model = config["model"]
  least = model["codebooks"] * math.prod(model["ratios"]) / model["rate"]
  if not clip_seconds >= least:
    raise UserError(
      f"--clip-seconds is {clip_seconds}; it must be at least {least:.3g}, so"
      f" that a clip has a frame for each of {model['codebooks']} codebooks."
    )
  start, every = arm_run.start_of(config), config["save_every"]
  if not 0 < start < config["steps"] or start % every:
    raise UserError(
      f"losses.independence.start is {start}: the arms part there, so it must"
      f" lie before the last of {config['steps']} steps and be a multiple of"
      f" save_every, {every}."
    )


class _Run:
  """One run of the grid, in a separate process."""

  def __init__(
    self,
    workdir: pathlib.Path,
    arm: str,
    settings: Mapping[str, Any],
    starts: Mapping[str, int],
    *,
    one_core: bool,
  ) -> None:
    """Sets up a run.

    Args:
      workdir: folder of the experiment.
      arm: one of `ARMS`.
      settings: settings of the run; see `arm_run`.
      starts: seeds of the baselines to start from ("shared") and to calibrate
        the weight on ("calibrate"); empty for a baseline itself.
      one_core: whether several runs share the machine.
    """
    self._folder = workdir / arm / f"seed_{settings['config']['seed']}"
    self._name = f"{arm} seed {settings['config']['seed']}"
    self._settings, self._starts = settings, starts
    self._one_core, self._cancelled = one_core, False
    self._process: subprocess.Popen | None = None

  def stage(self) -> job_lib.Stage:
    """Makes the stage that trains and measures the last checkpoint."""
    return job_lib.Stage(
      self._name,
      self._train,
      {**self._settings, "starts": self._starts},
      [self._folder, self._folder / arm_run.RESULT],
      resumes=True,
      needs=[f"{BASELINE} seed {seed}" for seed in self._starts.values()],
      stop=self._cancel,
    )

  def curve_stage(self) -> job_lib.Stage:
    """Makes the stage that measures earlier checkpoints."""
    return job_lib.Stage(
      f"{self._name}, curve",
      lambda: self._start("--curve"),
      {},
      [self._folder / arm_run.CURVE],
      needs=[self._name],
      stop=self._cancel,
    )

  def _train(self) -> str:
    self._folder.mkdir(parents=True, exist_ok=True)
    base = self._folder.parents[1] / BASELINE
    starts = {k: str(base / f"seed_{v}") for k, v in self._starts.items()}
    job = {"shared": "", **self._settings, **starts}
    atomic.write_json(self._folder / arm_run.JOB, job)
    return self._start()

  def _start(self, *options: str) -> str:
    """Runs the job in a process and waits for it.

    Raises:
      UserError: it failed.
    """
    env = dict(os.environ)
    if self._one_core:
      # Runs on one core each are faster in total than one at a time on all
      # cores.
      env["XLA_FLAGS"] = (
        env.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
        " intra_op_parallelism_threads=1"
      )
      env["OMP_NUM_THREADS"] = "1"
    path = self._folder / "log.txt"
    with path.open("a") as output:
      self._process = subprocess.Popen(
        [sys.executable, "-m", arm_run.__name__, str(self._folder), *options],
        # Closed when this process ends, even if it is killed: no run goes on
        # alone, and in the way of the next one.
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=env,
        # Ctrl-C stops the parent, which tells its runs to save and stop.
        start_new_session=True,
      )
    try:
      if self._cancelled:
        self._stop()
      code = self._process.wait()
    finally:
      self._stop()
      assert self._process.stdin is not None
      self._process.stdin.close()
    if code < 0:
      # The last line would be one of a dump, or of the training.
      name = signal.strsignal(-code)
      raise UserError(
        f"{self._name} was ended by signal {-code} ({name}); see {path}"
      )
    if code:
      last = path.read_text().strip().splitlines()[-1:]
      raise UserError(f"{self._name} failed: {' '.join(last)} ({path})")
    return f"see {path}"

  def _cancel(self) -> None:
    """Stops the run from another thread, whether or not it has started."""
    self._cancelled = True
    self._stop()

  def _stop(self) -> None:
    """Tells the process to save and stop, and waits for it."""
    if self._process is not None and self._process.poll() is None:
      self._process.terminate()
      self._process.wait()
