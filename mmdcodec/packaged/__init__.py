"""Trained models that ship with the package.

    mmdcodec.load("small")
    mmdcodec generate "a fast tune with drums" tune.wav --model small_music

Each is a folder here with a bundle (`config.json`, `model.safetensors`) and a
model card, README.md: what it was trained on, how, how well it does, and what
it is not for. `packaged_models.py`, `packaged_music.py`, `packaged_joint.py`
and `packaged_musiclm.py` in `mmdcodec/workflows` train them.

A model here does not contain others that ship by themselves: its config has
their names, `"codec": {"packaged": "small"}`. Parameters are stored in 8 bits,
see `mmdcodec.store.scaled`.
"""

import copy
import importlib.resources
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

_FILES = ("config.json", "model.safetensors", "README.md")
FOLDER = pathlib.Path(str(importlib.resources.files(__name__)))


def names() -> list[str]:
  """Returns the names of the models, sorted."""
  return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def find(name: str) -> pathlib.Path | None:
  """Returns the folder of a model; None if there is none of this name."""
  return FOLDER / name if name in names() else None


def resolve_start(config: Mapping[str, Any]) -> dict[str, Any]:
  """Replaces a packaged model's name in `init_from` by its path.

  A folder of that name in the current one must not take its place.

  Args:
    config: of a run; an `init_from` that is no such name stays as it is.
  """
  found = copy.deepcopy(dict(config))
  if (folder := find(found["init_from"])) is not None:
    found["init_from"] = str(folder)
  return found


def install(model: pathlib.Path) -> None:
  """Puts a bundle, with its card, in the place of the packaged model."""
  target, fresh = FOLDER / model.name, FOLDER / f".{model.name}"
  shutil.rmtree(fresh, ignore_errors=True)
  fresh.mkdir()
  for name in _FILES:
    shutil.copyfile(model / name, fresh / name)
  shutil.rmtree(target, ignore_errors=True)
  os.replace(fresh, target)
