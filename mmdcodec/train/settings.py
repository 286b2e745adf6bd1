"""Reads the settings of a run and records them in the workdir."""

import copy
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from mmdcodec import platform
from mmdcodec.errors import UserError
from mmdcodec.store import paths, renamed
from mmdcodec.store import workdir as run_files
from mmdcodec.train.task import Task

# Conditions that presets did not have in earlier versions.
_GAINED = {"chroma"}


def plain(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
  """Converts a config to nested dicts and renames old keys."""
  if isinstance(config, ConfigDict):
    config = config.to_dict()
  config = copy.deepcopy(dict(config))
  renamed.update(config)
  return config


def as_begun(
  config: dict[str, Any], workdir: pathlib.Path, say: Callable[[str], None]
) -> None:
  """Leaves out conditions that presets have gained since a run was begun.

  The run goes on with those that it has.

  Args:
    config: config of the run; changed.
    workdir: folder of the run.
    say: called with a line of text if something is left out.
  """
  if not (workdir / run_files.CONFIG_FILE).exists():
    return
  before = run_files.read_config(workdir)["model"].get("conditions")
  now = config["model"].get("conditions")
  if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
    return
  new = sorted(_GAINED & now.keys() - before.keys())
  if new:
    kept = {name: of for name, of in now.items() if name not in new}
    config["model"] = {**config["model"], "conditions": kept}
    say(
      f"{workdir} was begun without the conditions {', '.join(new)}, and goes"
      " on without"
    )


def record_config(
  config: dict[str, Any], workdir: pathlib.Path, task: Task
) -> None:
  """Records the config in the workdir, which belongs to one model.

  Args:
    config: config of the run.
    workdir: folder of the run.
    task: the task of the config.

  Raises:
    UserError: the workdir holds something else, or a run with another model,
      optimizer or extra state.
  """
  # As it will be read back: tuples become lists in JSON.
  now = json.loads(json.dumps(config))
  if (workdir / run_files.CONFIG_FILE).exists():
    _check_same(now, run_files.read_config(workdir), workdir, task)
  if jax.process_index() == 0:
    task.record_parts(workdir)
    info = run_files.RunInfo(
      kind=task.kind,
      best_metric=task.best_metric,
      best_mode=task.best_mode,
      low_rank_scale=task.low_rank_scale,
      parts=task.parts,
    )
    # Files are replaced atomically, and readers may see old or new ones: both
    # agree on everything that was compared.
    run_files.write(workdir, now, info)


def _check_same(
  now: dict[str, Any], before: dict[str, Any], workdir: pathlib.Path, task: Task
) -> None:
  """Raises a UserError if a run cannot be resumed with these settings."""
  # A key that only one of the two versions has was not changed by the user.
  changed = [
    f"model.{key}"
    for key, value in now["model"].items()
    if key not in task.free_model_keys
    and not unchanged(value, before["model"].get(key, value))
  ]
  if now["optimizer"]["name"] != before["optimizer"]["name"]:
    changed.append("optimizer.name")
  if bool(now["ema"]) != bool(before["ema"]):
    changed.append("ema (on or off)")
  fixed = task.fixed_settings(before)
  changed += [
    name
    for name, value in task.fixed_settings(now).items()
    if fixed[name] != value
  ]
  if not changed:
    return
  hint = "continue it with the same settings, or give another --workdir."
  # The recipes had no discriminators in earlier versions.
  if now["task"] == "codec" and "adversarial" not in before:
    hint += (
      " To go on without discriminators, as it began, add"
      " --config.losses.adversarial.weight=0"
      " --config.losses.features.weight=0 --config.balancer.on=False."
    )
  raise UserError(
    f"{workdir} holds a run with another {', '.join(sorted(changed))}; {hint}"
  )


def unchanged(now: Any, before: Any) -> bool:
  """Whether a setting is unchanged; a new field that is off changes nothing."""
  if not (isinstance(now, Mapping) and isinstance(before, Mapping)):
    return now == before
  return all(
    unchanged(now[key], before[key])
    if key in now and key in before
    else not (now.get(key) or before.get(key))
    for key in {*now, *before}
  )


def parse_datasets(
  text: str | Sequence | Mapping,
) -> list[str] | dict[str, float]:
  """Parses data sets: a list of paths, or weights by path.

  Args:
    text: `"A,B"`, sampled as one data set; `"A=0.7,B=0.3"`, with weights; or
      the same as a list or mapping (for paths that contain commas).

  Raises:
    UserError: only some of the data sets have a weight.
  """
  if isinstance(text, Mapping):
    return dict(text)
  if not isinstance(text, str):
    return list(text)
  parts = [part.strip() for part in text.split(",") if part.strip()]
  matches = [
    re.fullmatch(r"(.+)=((?:\d+\.?\d*|\.\d+)(?:[eE]-?\d+)?)", p) for p in parts
  ]
  weighted = [match for match in matches if match]
  if not weighted:
    return parts
  if len(weighted) < len(parts):
    raise UserError(
      f"{text!r}: either every data set has a weight (PATH=0.7,PATH=0.3) or"
      " none has (PATH,PATH)."
    )
  return {match[1]: float(match[2]) for match in weighted}


def parse_streams(text: str | Mapping[str, Any]) -> dict[str, list[str]]:
  """Parses token data sets of other tokenizers for `token_batches`.

  Args:
    text: conditions and paths, such as `"semantic=A,semantic=B,joint=C"`; or a
      mapping from name to data sets, as for `parse_datasets`.

  Raises:
    UserError: a part without a name.
  """
  if not isinstance(text, str):
    return {name: list(parse_datasets(sets)) for name, sets in text.items()}
  found: dict[str, list[str]] = {}
  for part in filter(None, map(str.strip, text.split(","))):
    name, equals, path = part.partition("=")
    if not equals:
      raise UserError(
        f"data.streams is {text!r}; expected NAME=TOKENS,NAME=TOKENS."
      )
    found.setdefault(name, []).append(path)
  return found


def use_compilation_cache(folder: str) -> None:
  """Caches compiled programs on disk, so that a restart need not recompile.

  Args:
    folder: folder of the cache; "off" for none; "" for the one that JAX was
      told to use, or else the user's cache.
  """
  before, path = jax.config.values["jax_compilation_cache_dir"], None
  if folder != "off":
    own = before or platform.cache_folder(platform.PROGRAMS)
    path = str(paths.of(folder).expanduser()) if folder else own
  if path != before:
    jax.config.update("jax_compilation_cache_dir", path)
    # JAX goes on with the folder of its first program otherwise.
    compilation_cache.reset_cache()
