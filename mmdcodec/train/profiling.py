"""Traces a few steps for xprof and TensorBoard, as planned or on demand.

`config.profile.steps` are traced after the (re)start. Besides, SIGUSR1 has the
process that gets it trace its next steps, and a file PROFILE in the workdir
(`touch WORKDIR/PROFILE`) has process 0 do so, and is then removed.
"""

import contextlib
import pathlib
import signal
import tempfile
import threading
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mmdcodec.store import paths

FILE, FOLDER = "PROFILE", "profile"

# Steps that are traced on demand, if the config does not say how many.
_STEPS = 5
# Seconds between looks for the file, on a disk and in an object store.
_EVERY, _EVERY_REMOTE = 2.0, 30.0
# Windows has no such signal.
_SIGNAL = getattr(signal, "SIGUSR1", None)


def _options() -> jax.profiler.ProfileOptions:
  """What is traced: devices and the runtime, but no calls of Python functions.

  With those, a trace makes the host's part of small steps 1.44 times as long,
  without them 1.25 times (medians, by hand), and so distorts less the gaps that
  it is meant to show. From Python 3.12 on, tracing of calls is switched on and
  off in all threads at once: one that ends at that moment, as those that save
  and read do, can crash the process (CPython issue 137400).
  """
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  return options


class Profiler:
  """Writes traces to WORKDIR/profile."""

  def __init__(
    self,
    config: Mapping[str, int],
    workdir: pathlib.Path,
    say: Callable[[str], None],
  ):
    """Installs the signal handler, if this is the main thread.

    Args:
      config: `start`, steps to wait after the (re)start, and `steps` to trace;
        0: none until it is asked for.
      workdir: folder of the run.
      say: called with a line of text.
    """
    self._config, self._workdir, self._say = config, workdir, say
    self._planned, self._end = -1, -1
    self._asked, self._on, self._looked = False, False, 0.0
    remote = isinstance(workdir, paths.Url)
    self._every = _EVERY_REMOTE if remote else _EVERY
    self._remote, self._before = remote, None
    in_main = threading.current_thread() is threading.main_thread()
    if _SIGNAL is not None and in_main:
      self._before = signal.signal(_SIGNAL, self._ask) or signal.SIG_DFL

  def _ask(self, signum: int, frame: types.FrameType | None) -> None:
    self._asked = True

  def begin(self, step: int) -> None:
    """Plans the trace of the config.

    Args:
      step: step at which the run starts or resumes.
    """
    if self._config["steps"]:
      self._planned = step + self._config["start"]

  def before(self, step: int) -> None:
    """Starts a trace before a step, if it is planned or was asked for."""
    if self._on or not (step == self._planned or self._is_asked()):
      return
    self._asked = False
    folder = self._workdir / FOLDER
    try:
      if self._remote:
        self._made = tempfile.TemporaryDirectory(prefix="mmdcodec-")
        folder = pathlib.Path(self._made.name)
      jax.profiler.start_trace(str(folder), profiler_options=_options())
    # Such as a full disk, or another profiler that is on in this process.
    except Exception as error:
      self._say(f"no profile: {error}")
      return
    self._on, self._end = True, step + (self._config["steps"] or _STEPS)
    self._say(
      f"profile: steps {step + 1} to {self._end}, to {self._workdir / FOLDER}"
    )

  def _is_asked(self) -> bool:
    """Whether the signal came, or the file is there."""
    now = time.monotonic()
    if jax.process_index() or now < self._looked + self._every:
      return self._asked
    self._looked = now
    file = self._workdir / FILE
    # No training ends for a folder that cannot be reached for a while.
    with contextlib.suppress(Exception):
      if file.exists():
        file.unlink()
        self._asked = True
    return self._asked

  def after(self, step: int, state: Any) -> None:
    """Ends the trace once the device has finished its last step."""
    if self._on and step == self._end:
      jax.block_until_ready(state)
      self._write()

  def _write(self) -> None:
    """Writes the trace; no training ends because that fails."""
    self._on = False
    try:
      jax.profiler.stop_trace()
      self._upload()
    except Exception as error:
      self._say(f"no profile: {error}")

  def _upload(self) -> None:
    """Copies a trace of a remote workdir there."""
    if self._remote:
      with self._made as made:
        for path in pathlib.Path(made).rglob("*.*"):
          if path.is_file():
            target = self._workdir / FOLDER / path.relative_to(made)
            target.upload(path)  # type: ignore[attr-defined]

  def close(self) -> None:
    """Writes a trace that is under way, and restores the signal handler."""
    if self._before is not None:
      assert _SIGNAL is not None
      signal.signal(_SIGNAL, self._before)
    if self._on:
      self._write()
