"""Reports on training: metrics, speed and time left.

The metrics come from `loss`, `inspect` and `evaluate` of a task; to log one
more, add it there.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from mmdcodec import formatting
from mmdcodec.store import metrics as metrics_lib
from mmdcodec.train.goodput import Goodput
from mmdcodec.train.hosts import Hosts
from mmdcodec.train.speed import Speed
from mmdcodec.train.task import Task

# What processes tell one another, among the metrics of a step.
_HOSTS = "hosts"


class Report:
  """Logs metrics and prints progress."""

  def __init__(
    self,
    task: Task,
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    *,
    step: int,
    run: str,
    goodput: Goodput,
    speed: Speed,
    hosts: Hosts | None = None,
    say: Callable[[str], None],
    check: Callable[[int, int], None],
  ):
    """Opens the files and starts the clock.

    Args:
      task: the task of the run.
      config: config of the run.
      workdir: folder of the run.
      step: step at which the run starts or resumes.
      run: id of the run, see `store/starts.py`.
      goodput: where the run's time goes.
      speed: what its steps do.
      hosts: compares processes, if there are several.
      say: called with a line of text.
      check: called with each step that is logged, and the number of steps since
        the last sound one.
    """
    self._task, self._config, self._say = task, config, say
    self._check, self._goodput = check, goodput
    self._speed, self._hosts = speed, hosts
    wandb = None
    if project := config.get("wandb_project"):
      shown = workdir.absolute().name
      wandb = dict(project=project, run=run, name=shown, config=config)
    self._writer = metrics_lib.MetricWriter(workdir, step=step, wandb=wandb)
    # Step, metrics, and operations up to it.
    self._pending: tuple[int, Any, float | None] | None = None
    # Those of the last report, from which the next speed is measured.
    self._step, self._flops, self._time = step, 0.0, time.perf_counter()

  def later(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Queues the metrics of a step that may still be running."""
    if self._hosts is not None:
      metrics = {**metrics, _HOSTS: self._hosts.gather(step)}
    self._pending = (step, metrics, self._speed.flops)

  def flush(self) -> None:
    """Reports what `later` queued, if anything; waits for the device."""
    if self._pending is None:
      return
    (step, metrics, flops), self._pending = self._pending, None
    with self._goodput.waiting():
      values = jax.device_get(metrics)
    # Not before the step is done, whose operations count.
    now = time.perf_counter()
    seconds = max(now - self._time, 1e-9)
    values |= self._speed.values(
      (step - self._step) / seconds,
      None if flops is None else (flops - self._flops) / seconds,
    )
    self._step, self._flops, self._time = step, flops or 0.0, now
    if self._hosts is not None:
      values |= self._hosts.values(values.pop(_HOSTS))
    values = self.write(
      step, {"train": values, "goodput": self._goodput.shares()}
    )
    self._say(self._line(step, values))
    for warning in self._task.warnings(values):
      self._say(f"WARNING: {warning}")
    self._check(step, round(values["train/skipped_in_a_row"]))

  def write(
    self, step: int, values: Mapping[str, Mapping[str, Any]]
  ) -> dict[str, float]:
    """Logs metrics, and returns them by full name, such as "train/loss".

    Args:
      step: number of updates done.
      values: metrics by group ("train") and name ("loss").
    """
    flat: dict[str, float] = {}
    for prefix, group in values.items():
      flat |= metrics_lib.flatten(group, prefix)
    self._writer.write(step, flat)
    return flat

  @contextlib.contextmanager
  def paused(self, kind: str) -> Iterator[None]:
    """Excludes the time spent in this block from the speed.

    Args:
      kind: what it is spent on, see `store/goodput.py`.
    """
    start = time.perf_counter()
    with self._goodput.on(kind):
      yield
    self._time += time.perf_counter() - start

  @contextlib.contextmanager
  def compiling(self, phase: str | None, batches: int) -> Iterator[None]:
    """Excludes the first step of a kind from the speed, and says its time.

    In that time it is traced, and compiled or read from the cache.

    Args:
      phase: phase of the step, see `Task.phase`.
      batches: batches that it takes.
    """
    start = time.perf_counter()
    with self.paused("compile"):
      yield
    kind = f" of phase {phase!r}" * (phase is not None)
    kind += f" over {batches} batches" * (batches > 1)
    took = formatting.duration(time.perf_counter() - start)
    self._say(f"the training step{kind} was ready after {took}")

  def say_evaluation(self, values: Mapping[str, float]) -> None:
    """Prints the held-out measures that are scalars."""
    shown = {k: v for k, v in values.items() if k.count("/") == 1}
    self._say(
      "  held out: "
      + "  ".join(
        f"{name.removeprefix('valid/')} {value:.4g}"
        for name, value in shown.items()
      )
    )

  def _line(self, step: int, values: Mapping[str, float]) -> str:
    """Formats step, metrics, speed and time left."""
    steps, speed = self._config["steps"], values["train/steps_per_second"]
    parts = [f"step {step:>{len(str(steps))}}/{steps}"]
    parts += [
      f"{name.split('/', 1)[-1]} {values[name]:.4g}"
      for name in self._task.progress_metrics
      if name in values
    ]
    parts.append(f"{speed:.2f} steps/s")
    parts.append(f"{values['train/audio_per_second']:.0f} s audio/s")
    if (mfu := values.get("train/mfu")) is not None:
      parts.append(f"MFU {formatting.share(mfu)}")
    if (slowest := values.get("train/slowest_host")) is not None:
      own = values[f"train/host_seconds/{slowest:.0f}"]
      parts.append(f"slowest host {slowest:.0f} ({own:.3g} s)")
    left = formatting.duration((steps - step) / max(speed, 1e-9))
    return "  ".join([*parts, f"{left} left"])

  def sync(self) -> None:
    """Ensures that the metrics so far are in the workdir."""
    self._writer.sync()

  def close(self) -> None:
    """Closes the files."""
    self._writer.close()
