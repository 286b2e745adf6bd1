"""Trained models that ship with the package.

    mmdcodec.load("small")
    mmdcodec generate "a fast tune with drums" tune.wav --model small

Each is a folder here with a bundle (`config.json`, `model.safetensors`) and a
model card, README.md: what it was trained on, how, how well it does, and what
it is not for. `packaged_models.py` and `packaged_music.py` in
`mmdcodec/workflows` train them.

A music model here does not contain its codec, which would ship twice: the
config has the name, `"codec": {"packaged": "small"}`.
"""

import importlib.resources
import pathlib
import shutil

FOLDER = pathlib.Path(str(importlib.resources.files(__name__)))


def names() -> list[str]:
  """Returns the names of the models, sorted."""
  return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def find(name: str) -> pathlib.Path | None:
  """Returns the folder of a model; None if there is none of this name."""
  return FOLDER / name if name in names() else None


def install(model: pathlib.Path) -> None:
  """Puts a bundle, with its card, in the place of the packaged model."""
  target = FOLDER / model.name
  shutil.rmtree(target, ignore_errors=True)
  shutil.copytree(model, target)
