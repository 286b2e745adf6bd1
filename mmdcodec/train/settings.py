"""Settings of a run: what they must be, and that a workdir keeps to them."""

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax

from mmdcodec.errors import UserError

CONFIG_FILE = "config.json"


def check(config: dict) -> None:
  """Settings that the type alone does not rule out.

  Raises:
    UserError: names the first one.
  """
  for key in ("steps", "batch", "log_every", "eval_every", "save_every", "keep",
              "max_skipped"):  # fmt: skip
    if config[key] < 1:
      raise UserError(f"{key} is {config[key]}; it must be at least 1.")
  if config.get("accumulate", 1) < 1 or config["batch"] % config.get(
    "accumulate", 1
  ):
    raise UserError(
      f"accumulate is {config['accumulate']}; the batch of {config['batch']}"
      " must be a multiple of it."
    )
  if config["data"]["valid"] and config["save_every"] % config["eval_every"]:
    raise UserError(
      f"save_every is {config['save_every']} and eval_every is"
      f" {config['eval_every']}: save at a multiple of eval_every, so that"
      " every checkpoint has its measures and the best one can be found."
    )
  for name, loss in config.get("losses", {}).items():
    if not loss["weight"] >= 0:
      raise UserError(
        f"losses.{name}.weight is {loss['weight']}; it must be at least 0."
      )
  gain = config["data"].get("gain_db", (0, 0))
  if not isinstance(gain, tuple | list) or len(gain) != 2:
    raise UserError(f"data.gain_db is {gain}; it must be (lowest, highest).")
  if not 0 <= config["ema"] < 1:
    raise UserError(f"ema is {config['ema']}; it must be from 0 up to below 1.")


def remember(config: dict, workdir: pathlib.Path, task: Any) -> None:
  """Writes config.json; a workdir belongs to one model.

  Args:
    config: of this start.
    workdir: of the run.
    task: says which keys of `model` may change from one start to the next
      (`free`), and which state there is beside the model's (`carries`).

  Raises:
    UserError: the run that is there had another model, optimizer or state, or
      what is there is no run.
  """
  path = workdir / CONFIG_FILE
  now = json.loads(json.dumps(config))
  if path.exists():
    before = json.loads(path.read_text())
    if "task" not in before:
      raise UserError(
        f"{workdir} is no --workdir of a training run: its {CONFIG_FILE} names"
        " no task."
      )
    # A key that one of the two versions does not know has not been changed.
    changed = [
      f"model.{key}"
      for key, value in now["model"].items()
      if key not in task.free and before["model"].get(key, value) != value
    ]
    if now["optimizer"]["name"] != before["optimizer"]["name"]:
      changed.append("optimizer.name")
    if bool(now["ema"]) != bool(before["ema"]):
      changed.append("ema (on or off)")
    changed += [
      name
      for name, value in task.carries(now).items()
      if task.carries(before)[name] != value
    ]
    if changed:
      # The recipes had no discriminators in earlier versions.
      hint = "continue it with the same settings, or give another --workdir."
      if now["task"] == "codec" and "adversarial" not in before:
        hint += (
          " To go on without discriminators, as it began, add"
          " --config.losses.adversarial.weight=0"
          " --config.losses.features.weight=0 --config.balancer.on=False."
        )
      raise UserError(
        f"{workdir} holds a run with another {', '.join(sorted(changed))};"
        f" {hint}"
      )
  if jax.process_index() == 0:
    task.remember(workdir)
    # Whoever reads it meanwhile finds the old one or the new one, and both say
    # the same of what is compared.
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(now, indent=2) + "\n")
    fresh.replace(path)


def parse_datasets(text: str | list | Mapping) -> list[str] | dict[str, float]:
  """Data sets as `pipeline.batches` takes them.

  Args:
    text: `"A,B"`, drawn from as one; `"A=0.7,B=0.3"`, with weights; or a list
      or mapping, which is left as it is (for paths with a comma in them).

  Raises:
    UserError: some have a weight and others have none.
  """
  if not isinstance(text, str):
    return text
  parts = [part.strip() for part in text.split(",") if part.strip()]
  weighted = [
    re.fullmatch(r"(.+)=((?:\d+\.?\d*|\.\d+)(?:[eE]-?\d+)?)", p) for p in parts
  ]
  if not any(weighted):
    return parts
  if not all(weighted):
    raise UserError(
      f"{text!r}: either every data set has a weight (PATH=0.7,PATH=0.3) or"
      " none has (PATH,PATH)."
    )
  return {match[1]: float(match[2]) for match in weighted}


def use_compilation_cache(folder: str) -> None:
  """Keeps compiled programs on disk, so that a restart skips minutes of it."""
  if folder == "off":
    return
  cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
  path = pathlib.Path(folder or f"{cache}/mmdcodec/compiled").expanduser()
  jax.config.update("jax_compilation_cache_dir", str(path))
