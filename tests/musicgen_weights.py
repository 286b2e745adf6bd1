"""Tiny models of the public MusicGen; test_convert_musicgen.py says of what."""

import json
import pathlib

import numpy as np
import safetensors.numpy

DATA = pathlib.Path(__file__).parent / "data"
STEREO = "musicgen_stereo_tiny"
NAMES = ("musicgen_tiny", "musicgen_melody_tiny", STEREO)


def source(name):
  """Config and tensors of a tiny public model, its input and output."""
  arrays = dict(np.load(DATA / f"{name}.npz"))
  config = json.loads((DATA / f"{name}.json").read_text())
  w = {key[2:]: a for key, a in arrays.items() if key.startswith("w/")}
  return config, w, arrays


def write_folder(folder, config, w, tokenizer="{}"):
  """A folder as the public library writes it."""
  folder.mkdir(parents=True)
  if config is not None:
    (folder / "config.json").write_text(json.dumps(config))
  if tokenizer is not None:
    (folder / "tokenizer.json").write_text(tokenizer)
  safetensors.numpy.save_file(w, folder / "model.safetensors")
  return folder
