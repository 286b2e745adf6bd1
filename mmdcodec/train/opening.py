"""What a run and a dry run of it do first: checks, then mesh and task."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.store import inputs, orbax_stores, paths, weights_and_biases
from mmdcodec.train import config_checks, same_data, settings
from mmdcodec.train.task import Task, make_task


class Opened(NamedTuple):
  """What a run begins with.

  Attributes:
    config: the config, as nested dicts without old keys.
    workdir: folder of the run, which need not be there.
    say: prints a line of text, in process 0 alone.
  """

  config: dict[str, Any]
  workdir: pathlib.Path
  say: Callable[[str], None]


def open_run(
  config: Mapping[str, Any] | ConfigDict,
  workdir: str | pathlib.Path,
  log: Callable[[str], None],
) -> Opened:
  """Checks what can be checked before files are read or devices are used.

  Args:
    config: as for `loop.train`.
    workdir: as for `loop.train`.
    log: called with one line of text.

  Raises:
    UserError: a setting is invalid, or a run cannot write to such a path.
  """
  config = settings.plain(config)
  config_checks.check(config)
  weights_and_biases.check(config.get("wandb_project", ""))
  inputs.check_name(workdir)
  workdir = paths.of(workdir)
  orbax_stores.prepare(workdir)
  settings.use_compilation_cache(config["compilation_cache"])
  say = log if jax.process_index() == 0 else (lambda line: None)
  return Opened(config, workdir, say)


def open_task(
  config: dict[str, Any],
  workdir: pathlib.Path,
  say: Callable[[str], None],
  devices: Sequence[jax.Device] | None = None,
) -> tuple[Task, jax.sharding.Mesh]:
  """Makes the task of a run and its mesh.

  Args:
    config: of `open_run`; conditions that the run was begun without are left
      out.
    workdir: of `open_run`.
    say: called with a line of text.
    devices: devices of the mesh; all by default.

  Raises:
    UserError: processes differ in config or data, mesh and batch do not fit the
      devices, or the task cannot be made.
    Unreachable: the store of a data set does not answer.
  """
  same_data.check(config)
  mesh = mesh_lib.make_mesh(config["mesh"], devices)
  mesh_lib.check_batch(config["batch"], mesh, config.get("accumulate", 1))
  settings.as_begun(config, workdir, say)
  task = make_task(config)
  task.workdir = workdir
  return task, mesh
