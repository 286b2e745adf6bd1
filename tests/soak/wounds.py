"""Damages files, and looks at what came of undamaged and damaged ones."""

import re

import damage
import numpy as np
from trial import Trial, require

# Results from undamaged samples, by name.
_known: dict[str, object] = {}

SAID = re.compile(
  r"damage|instead|earlier|skipp|cannot be|can't be|not read|no row|left out"
  r"|unread|without",
  re.I,
)


def known(name, make):
  """Returns what an undamaged sample gives; computed once in a process."""
  if name not in _known:
    _known[name] = make()
  return _known[name]


def finite(tree):
  """Requires that all arrays of a tree are finite."""
  import jax

  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    x = np.asarray(x)
    if x.dtype.kind in "fV":
      good = np.isfinite(x.astype(np.float32)).all()
      require(good, f"{jax.tree_util.keystr(path)} is not finite")


def same(one, other) -> bool:
  """Whether two trees have equal arrays."""
  import jax

  a, b = jax.tree.flatten(one), jax.tree.flatten(other)
  return a[1] == b[1] and all(map(np.array_equal, a[0], b[0]))


def wound_file(trial: Trial, path, *, json_too=True) -> bool:
  """Damages a file or replaces it; returns whether it still is a file."""
  if trial.chance(0.15):
    others = [p for p in (trial.samples / "audio").iterdir()]
    trial.words += damage.replace(path, trial.rng, others)
  elif path.name.endswith(".safetensors"):
    data, words = damage.safetensors(path.read_bytes(), trial.rng)
    path.write_bytes(data)
    trial.words += words
  elif json_too and path.suffix == ".json":
    trial.words += damage.json_file(path, trial.rng)
  else:
    trial.words += damage.bytes_of(path, trial.rng)
  trial.words.append(f"in {path.name}")
  return path.is_file() and not path.is_symlink()


def audio_of(path):
  """Reads an audio file; (float32 [samples, channels], Hz)."""
  import soundfile

  return soundfile.read(path, dtype="float32", always_2d=True)
