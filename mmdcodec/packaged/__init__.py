"""Trained models that ship with the package.

    mmdcodec.load("small")
    mmdcodec generate "a fast tune with drums" tune.wav --model small

Each is a folder here with a bundle (`config.json`, `model.safetensors`) and a
model card, README.md: what it was trained on, how, how well it does, and what
it is not for. `mmdcodec/workflows/packaged_models.py` trains them.
"""

import importlib.resources
import pathlib

FOLDER = pathlib.Path(str(importlib.resources.files(__name__)))


def names() -> list[str]:
  """Returns the names of the models, sorted."""
  return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def find(name: str) -> pathlib.Path | None:
  """Returns the folder of a model; None if there is none of this name."""
  return FOLDER / name if name in names() else None
