"""Speed, time left and a profile of the training loop."""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mmdcodec import formatting


class Progress:
  """Speed and time left, measured between two lines of the log."""

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
    """Does not count time that was not spent on steps."""
    step, start = self._last
    self._last = (step, start + seconds)

  def line(
    self, step: int, values: Mapping[str, float], shown: Sequence[str]
  ) -> str:
    """One line for the terminal.

    Args:
      step: updates done.
      values: metrics of the step, with those of `measure`.
      shown: names of the metrics to show.
    """
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


class Profiler:
  """Traces a few steps for TensorBoard's profiler."""

  def __init__(
    self, step: int, config: Mapping[str, int], folder: pathlib.Path
  ):
    """Plans the trace.

    Args:
      step: where the run starts or continues.
      config: `start`, steps to wait from there, and `steps` to trace; 0: none.
      folder: for the trace.
    """
    self._first = step + config["start"]
    self._end = self._first + config["steps"]
    self._folder, self._on = folder, False

  def before(self, step: int) -> None:
    """Starts, if this is the first step to trace."""
    if step == self._first < self._end:
      jax.profiler.start_trace(str(self._folder))
      self._on = True

  def after(self, step: int, state: Any) -> None:
    """Stops once the device has finished the last step to trace."""
    if self._on and step == self._end:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    """Writes what was traced."""
    if self._on:
      jax.profiler.stop_trace()
      self._on = False
