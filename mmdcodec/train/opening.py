"""What a run and a dry run of it do first: settings and paths are checked."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from mmdcodec.store import inputs, orbax_stores, paths, weights_and_biases
from mmdcodec.train import config_checks, settings


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
