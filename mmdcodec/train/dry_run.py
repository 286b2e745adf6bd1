"""Checks a run as far as that is possible without starting it.

Config, data, devices and workdir are checked as `loop.train` does, and the step
is compiled. Nothing is written to the workdir. The weights of `init_from` are
not read.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmdcodec.errors import UserError
from mmdcodec.parallel.topology import topology_devices
from mmdcodec.store import checkpoints
from mmdcodec.store import workdir as run_files
from mmdcodec.train import compile_report, opening, settings
from mmdcodec.train.task import Task


def check(
  config: Mapping[str, Any] | ConfigDict,
  workdir: str | pathlib.Path,
  *,
  topology: str | None = None,
  log: Callable[[str], None] = print,
) -> bool:
  """Says what a run would do, or what is wrong with it.

  Args:
    config: as for `loop.train`.
    workdir: as for `loop.train`.
    topology: slice to compile the step for, see `topology_devices`; None for
      the devices that are there.
    log: called with one line or table of text.

  Returns:
    Whether the step fits the memory of the devices, as far as that is known.

  Raises:
    UserError: a setting, a data set or the workdir does not fit.
  """
  config, workdir, say = opening.open_run(config, workdir, log)
  say("\n".join(f"{name} = {value!r}" for name, value in _flat(config)))
  devices = None if topology is None else topology_devices(topology)
  task, _ = opening.open_task(config, workdir, say, devices)
  _check_data(config, task, workdir, say)
  say(f"workdir: {_describe(workdir, config)}")
  report = compile_report.make(config, topology)
  say(str(report))
  return report.fits is not False


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields settings by their full names, as on a command line."""
  for key, value in config.items():
    name = f"{prefix}{key}"
    if isinstance(value, Mapping) and value:
      yield from _flat(value, f"{name}.")
    else:
      yield name, value


def _check_data(
  config: dict[str, Any],
  task: Task,
  workdir: pathlib.Path,
  say: Callable[[str], None],
) -> None:
  """Reads a batch, and checks that the workdir's run is of the same model.

  Raises:
    UserError: there is no such data, or it does not fit.
  """
  with contextlib.closing(task.batches(seed=config["seed"])) as data:
    batch = next(data)
  wanted = task.batch_shapes(config["batch"])
  shapes = ", ".join(
    f"{name} {np.dtype(x.dtype)}{list(x.shape)}"
    for name, x in sorted(wanted.items())
  )
  if missing := wanted.keys() - batch.keys():
    raise UserError(f"the data has no {', '.join(sorted(missing))}.")
  say(f"a batch: {shapes}")
  say(f"held-out batches: {len(task.held_out())}")
  # What is written at a start goes to a folder that is thrown away.
  with tempfile.TemporaryDirectory(prefix="mmdcodec-") as scratch:
    folder = pathlib.Path(scratch)
    for name in (
      run_files.CONFIG_FILE,
      run_files.TARGET_FILE,
      run_files.STREAMS_FILE,
      run_files.CODES_FILE,
    ):
      if (workdir / name).is_file():
        (folder / name).write_bytes((workdir / name).read_bytes())
    try:
      settings.record_config(config, folder, task)
    except UserError as error:
      words = str(error).replace(scratch, str(workdir))
      raise UserError(words) from None


def _describe(workdir: pathlib.Path, config: dict[str, Any]) -> str:
  """Says where a run would start."""
  if not (workdir / checkpoints.FOLDER).is_dir():
    return f"{workdir}, a new run of {config['steps']} steps"
  found = checkpoints.Checkpoints(workdir, read_only=True)
  try:
    step = found.latest or 0
  finally:
    found.close()
  return f"{workdir}, goes on at step {step} of {config['steps']}"
