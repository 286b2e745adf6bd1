"""Reads and writes the configuration files in a training run's workdir.

    config.json    the configuration at the last start
    run.json       information for loading the model; see `RunInfo`
    target.json    the tokenizer whose codes a language model learns
    streams.json   the tokenizers whose codes are its conditions
    codes.json     the codec whose codes a run with a frozen encoder keeps to
    checkpoints/   see `store/checkpoints.py`
    metrics.jsonl  see `store/metrics.py`
    goodput.json   see `store/goodput.py`
    starts.json    see `store/starts.py`

Reading them does not need `mmdcodec.train`.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmdcodec.errors import UserError
from mmdcodec.store import atomic, inputs, paths, renamed

CONFIG_FILE, RUN_FILE = "config.json", "run.json"
TARGET_FILE, STREAMS_FILE = "target.json", "streams.json"
CODES_FILE = "codes.json"
# What to do about damaged files.
_ADVICE = "start the training once more, which writes it anew"


class RunInfo(NamedTuple):
  """The information needed to load a model from a checkpoint.

  Attributes:
    kind: kind of the model, as in a bundle.
    best_metric: held-out metric that selects the best checkpoint, or None.
    best_mode: "min" or "max", whichever is better.
    low_rank_scale: scale of low-rank additions, or None; see
      `models/low_rank.py`.
    parts: subfolders with bundles that become part of the model's bundle.
  """

  kind: str
  best_metric: str | None
  best_mode: str
  low_rank_scale: float | None = None
  parts: tuple[str, ...] = ()


# For versions that wrote no run.json, by the `task` in the config.
_EARLIER = {
  "codec": RunInfo("codec", "valid/mel_distance", "min"),
  "lm": RunInfo("lm", "valid/bits_per_frame", "min", parts=("codec",)),
}


def write(
  workdir: pathlib.Path, config: Mapping[str, Any], info: RunInfo
) -> None:
  """Writes config.json and run.json, each completely or not at all."""
  for name, content in (
    (RUN_FILE, info._asdict()),
    # Last, because this file makes the folder a workdir.
    (CONFIG_FILE, config),
  ):
    atomic.write_json(workdir / name, content)


def read_config(workdir: str | os.PathLike) -> dict[str, Any]:
  """Reads the configuration of a run, with today's keys.

  Raises:
    UserError: the folder is not a workdir, or the file is damaged.
  """
  path = paths.of(workdir) / CONFIG_FILE
  if not path.is_file():
    raise UserError(
      f"{workdir} is no --workdir of a training run: it has no {CONFIG_FILE}."
    )
  config = read_file(
    path, "delete it and start the training once more, with the same settings"
  )
  if not isinstance(config.get("task"), str):
    raise UserError(
      f"{workdir} is no --workdir of a training run: its {CONFIG_FILE} names no"
      " task."
    )
  renamed.update(config)
  return config


def read_info(workdir: str | os.PathLike) -> RunInfo:
  """Reads the information needed to load a run's checkpoints.

  Raises:
    UserError: the folder is not a workdir, or has an unknown kind.
  """
  path = paths.of(workdir) / RUN_FILE
  if path.is_file():
    found = read_file(path, _ADVICE)
    if not _is_info(found):
      raise UserError(f"{path} does not describe a training; {_ADVICE}.")
    return RunInfo(**{**found, "parts": tuple(found.get("parts", ()))})
  config = read_config(workdir)
  if config["task"] not in _EARLIER:
    raise UserError(
      f"{workdir} has no {RUN_FILE}: start its training once more, which"
      " writes the file."
    )
  lora = config.get("lora", {})
  scale = lora["alpha"] / lora["rank"] if lora.get("rank") else None
  return _EARLIER[config["task"]]._replace(low_rank_scale=scale)


def _is_info(found: dict[str, Any]) -> bool:
  """Returns whether the contents of run.json have the types of `RunInfo`."""
  parts = found.get("parts", [])
  return (
    {"kind", "best_metric", "best_mode"} <= {*found} <= {*RunInfo._fields}
    and isinstance(found["kind"], str)
    and isinstance(found["best_metric"], str | None)
    and found["best_mode"] in ("min", "max")
    and isinstance(found.get("low_rank_scale"), int | float | None)
    and isinstance(parts, list)
    and all(isinstance(part, str) for part in parts)
  )


def read_file(path: pathlib.Path, advice: str) -> dict[str, Any]:
  """Reads a JSON file that a program wrote and that holds an object.

  Args:
    path: the file.
    advice: what to do if it is damaged.

  Raises:
    UserError: it cannot be read, or holds something else.
  """
  try:
    return inputs.read_object(path)
  except UserError as error:
    raise UserError(f"{str(error).removesuffix('.')}; {advice}.") from None


def write_target(workdir: pathlib.Path, target: Mapping[str, Any]) -> None:
  """Writes `tokenizer`, `hash` and `frame_rate` of the codes a run learns."""
  atomic.write_json(workdir / TARGET_FILE, target)


def read_target(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Reads what `write_target` wrote; None for runs that learn no codes.

  Earlier versions wrote no `frame_rate`.
  """
  file = workdir / TARGET_FILE
  return read_file(file, _ADVICE) if file.is_file() else None


def has_checkpoint(workdir: pathlib.Path) -> bool:
  """Whether a run has saved anything that it can go on from."""
  folder = workdir / "checkpoints"
  return folder.is_dir() and any(
    path.name.isdigit() for path in folder.iterdir()
  )


def write_codes(workdir: pathlib.Path, codes: Mapping[str, str]) -> None:
  """Writes what `loaded_codec.codes_of` says of the codec that a run keeps to.

  Only runs that train a decoder alone have this.
  """
  atomic.write_json(workdir / CODES_FILE, codes)


def read_codes(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Reads what `write_codes` wrote; None for other runs."""
  file = workdir / CODES_FILE
  return read_file(file, _ADVICE) if file.is_file() else None


def write_streams(
  workdir: pathlib.Path, streams: Mapping[str, Mapping[str, str]]
) -> None:
  """Writes `tokenizer` and `hash` of the codes of each condition, by name."""
  atomic.write_json(workdir / STREAMS_FILE, streams)


def read_streams(workdir: pathlib.Path) -> dict[str, dict[str, str]]:
  """Reads what `write_streams` wrote; nothing for runs without streams."""
  file = workdir / STREAMS_FILE
  return read_file(file, _ADVICE) if file.is_file() else {}
