"""Metrics of a run: JSON lines always, TensorBoard if it is installed.

WORKDIR/metrics.jsonl     {"step": 100, "train/loss": 2.31, ...} a line
WORKDIR/tensorboard/      the same, when tensorboardX can be imported
"""

import json
import math
import pathlib
import time

import jax
import numpy as np

from mmdcodec import formatting

FILE = "metrics.jsonl"


def flatten(metrics: dict, prefix: str) -> dict[str, float]:
  """`{"usage": [a, b]}` becomes `{"train/usage/0": a, "train/usage/1": b}`."""
  flat = {}
  for name, value in metrics.items():
    value = np.asarray(value)
    if value.ndim == 0:
      flat[f"{prefix}/{name}"] = float(value)
    else:
      for i, item in enumerate(value.reshape(-1)):
        flat[f"{prefix}/{name}/{i}"] = float(item)
  return flat


def read(workdir: str | pathlib.Path) -> list[dict]:
  """The metrics of a run, a dict per line, oldest first."""
  path = pathlib.Path(workdir) / FILE
  if not path.exists():
    return []
  rows = []
  for line in path.read_text().splitlines():
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      # The last line of a run killed while it wrote.
      continue
    # Older runs called codebook usage "use".
    rows.append({k.replace("/use/", "/usage/"): v for k, v in row.items()})
  return rows


class MetricWriter:
  """Appends metrics; only process 0 writes."""

  def __init__(self, workdir: str | pathlib.Path, *, step: int = 0):
    """Opens the files.

    Args:
      workdir: of the run.
      step: where the run goes on. Lines beyond it were written by a run that
        was killed after its last checkpoint; they come again, so they go.
    """
    self._file = self._board = None
    if jax.process_index() != 0:
      return
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / FILE
    kept = [row for row in read(workdir) if row["step"] <= step]
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(json.dumps(row) + "\n" for row in kept))
    fresh.replace(path)
    self._file = path.open("a")
    try:
      import tensorboardX
    except ImportError:
      return
    self._board = tensorboardX.SummaryWriter(
      str(workdir / "tensorboard"), purge_step=step + 1
    )

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes one line, and the same scalars to TensorBoard.

    Args:
      step: updates done when they were measured.
      values: flat names to numbers. JSON has no NaN: such a value is null, and
        TensorBoard is not given it.
    """
    if self._file is None:
      return
    row = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps({"step": step, **row}) + "\n")
    self._file.flush()
    if self._board is not None:
      for name, value in row.items():
        if value is not None:
          self._board.add_scalar(name, value, step)

  def close(self) -> None:
    """Closes the files."""
    if self._file is not None:
      self._file.close()
    if self._board is not None:
      self._board.close()


class Progress:
  """Speed and time left, measured between log lines."""

  def __init__(self, step: int, steps: int, seconds_per_step: float):
    """Starts the clock.

    Args:
      step: where the run starts.
      steps: where it ends.
      seconds_per_step: seconds of audio that one step trains on.
    """
    self._steps, self._audio = steps, seconds_per_step
    self._last = (step, time.perf_counter())

  def measure(self, step: int) -> dict[str, float]:
    """Steps and seconds of audio per second since the last call."""
    last_step, last_time = self._last
    now = time.perf_counter()
    self._last = (step, now)
    speed = (step - last_step) / max(now - last_time, 1e-9)
    return {"steps_per_second": speed, "audio_per_second": speed * self._audio}

  def skip(self, seconds: float) -> None:
    """Leaves out time that was not spent on steps."""
    step, start = self._last
    self._last = (step, start + seconds)

  def line(self, step: int, values: dict[str, float], shown: list[str]) -> str:
    """One line for the terminal."""
    parts = [f"step {step:>{len(str(self._steps))}}/{self._steps}"]
    parts += [
      f"{name.split('/', 1)[-1]} {values[name]:.4g}"
      for name in shown
      if name in values
    ]
    speed = values["train/steps_per_second"]
    parts.append(f"{speed:.2f} steps/s")
    parts.append(f"{values['train/audio_per_second']:.0f} s audio/s")
    parts.append(
      f"{formatting.duration((self._steps - step) / max(speed, 1e-9))} left"
    )
    return "  ".join(parts)
