"""Reads tensors from safetensors files and uses each exactly once.

A converter lists its conversions as `Rule`s before it reads a tensor. So the
error for an unsuitable file lists everything that is missing or left over, and
no tensor is silently ignored.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.store import inputs, tensors

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE = WEIGHTS_FILE + ".index.json"
PICKLES = (".bin", ".pt", ".pth", ".th", ".ckpt", ".pkl")

_SHOWN = 20  # names in an error message


@dataclasses.dataclass(frozen=True)
class Rule:
  """A conversion of some tensors to some of our arrays.

  Attributes:
    targets: our paths, such as "params/encoder/conv_in/bias".
    names: names of the required tensors.
    make: takes the tensors in this order and returns one array per target.
    optional: names of tensors that may be missing; `make` takes them after the
      required ones, with None for a missing one.
  """

  targets: tuple[str, ...]
  names: tuple[str, ...]
  make: Callable[..., Sequence[np.ndarray]] = lambda *arrays: arrays
  optional: tuple[str, ...] = ()


class Misfit(ValueError):
  """Tensors that do not fit together.

  Attributes:
    names: names of the tensors.
  """

  def __init__(self, names: Sequence[str]) -> None:
    super().__init__(", ".join(names))
    self.names = names


def stacked(
  names: Sequence[str],
  make: Callable[[np.ndarray], np.ndarray] = lambda array: array,
) -> Callable[..., Sequence[np.ndarray]]:
  """Returns a `Rule.make` that stacks the tensors of all layers.

  Args:
    names: names of the tensors, for the error.
    make: conversion of each tensor before stacking.

  Returns:
    A function of the tensors. It raises Misfit with the names of those whose
    shape differs from the others.
  """

  def stack(*arrays: np.ndarray) -> tuple[np.ndarray]:
    # Assumes that the most frequent shape is right.
    shapes = [a.shape for a in arrays]
    usual = max(shapes, key=shapes.count)
    other = [n for n, s in zip(names, shapes, strict=True) if s != usual]
    if other:
      raise Misfit(other)
    return (np.stack([make(a) for a in arrays]),)

  return stack


def apply(
  rules: Sequence[Rule],
  arrays: dict[str, np.ndarray],
  shapes: dict[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
  """Makes every array of a model, using every tensor once.

  Args:
    rules: rules of one model.
    arrays: tensors by name.
    shapes: shapes of all arrays of the model, by path.

  Returns:
    Arrays by path; floats as float32.

  Raises:
    UserError: tensors are missing, left over, of a wrong shape, not floats, or
      not finite, or what is computed of them is not; the message lists them.
    ValueError: the rules use a tensor twice or do not fit the model, which is
      not the file's fault.
  """
  uses = [name for rule in rules for name in (*rule.names, *rule.optional)]
  targets = [target for rule in rules for target in rule.targets]
  if len({*uses}) != len(uses) or sorted(targets) != sorted(shapes):
    raise ValueError("these rules use a tensor twice, or do not fit the model")
  missing = [n for rule in rules for n in rule.names if n not in arrays]
  over = [name for name in arrays if name not in {*uses}]
  faults = [
    f"{len(names)} tensor{'s are' if len(names) > 1 else ' is'} {what}"
    f" ({_listed(names)})"
    for what, names in (("missing", missing), ("left over", over))
    if names
  ]
  if faults:
    raise UserError(f"the weights do not fit: {'; '.join(faults)}.")
  out, wrong, broken = {}, [], []
  needed = [name for rule in rules for name in rule.names]
  bad = [n for n in needed if arrays[n].dtype.kind != "f"]
  bad += [n for n in arrays if not np.isfinite(arrays[n]).all()]
  if bad:
    raise UserError(
      "the weights can't be used: expected finite floats in every tensor, found"
      f" others in {len(bad)} ({_listed(bad)})."
    )
  for rule in rules:
    given: list[np.ndarray | None] = [arrays[name] for name in rule.names]
    given += [arrays.get(name) for name in rule.optional]
    try:
      with np.errstate(all="ignore"):  # `broken` has what becomes of it
        made = rule.make(*given)
    except Misfit as error:
      wrong += _shaped(error.names, arrays)
      continue
    except ValueError:  # shapes that cannot be transposed or stacked
      wrong += _shaped(rule.names, arrays)
      continue
    for target, array in zip(rule.targets, made, strict=True):
      out[target] = array
      if array.shape != shapes[target]:
        wrong += _shaped(rule.names, arrays)
      elif not np.isfinite(array).all():
        broken += rule.names
  if wrong:
    raise UserError(
      f"the weights do not fit: {len(wrong)} of another shape than the config"
      f" gives ({_listed(wrong)})."
    )
  if broken:
    raise UserError(
      "the weights can't be used: what is computed of them is not finite"
      f" ({_listed(broken)})."
    )
  return out


def renamed(
  arrays: dict[str, np.ndarray], rename: Callable[[str], str]
) -> dict[str, np.ndarray]:
  """Returns tensors by the names that `rename` gives them.

  Raises:
    UserError: two of them get the same name.
  """
  olds: dict[str, str] = {}
  for name in arrays:
    other = olds.setdefault(rename(name), name)
    if other != name:
      raise UserError(
        f"{other} and {name} are the same tensor; expected only one of them."
      )
  return {new: arrays[old] for new, old in olds.items()}


def fill(
  rules: Sequence[Rule], arrays: dict[str, np.ndarray], like: dict[str, Any]
) -> dict[str, Any]:
  """Like `apply`, for nested variables.

  Args:
    rules: rules of one model.
    arrays: tensors by name.
    like: nested variables of the model, or their shapes and dtypes.

  Returns:
    Variables with the same nesting.

  Raises:
    UserError, ValueError: as in `apply`.
  """
  shapes = flax.traverse_util.flatten_dict(like, sep="/")
  made = apply(rules, arrays, {path: s.shape for path, s in shapes.items()})
  return flax.traverse_util.unflatten_dict(made, sep="/")


def _shaped(names: Sequence[str], arrays: dict[str, np.ndarray]) -> list[str]:
  return [f"{name} {arrays[name].shape}" for name in names]


def _listed(names: Sequence[str]) -> str:
  more = len(names) - _SHOWN
  return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads all tensors of a file or folder, by name; floats as float32.

  Args:
    path: a .safetensors file; or a folder with model.safetensors, with its
      shards and their index, or with one file of another name.

  Raises:
    UserError: there is no such file, only a pickle, or a file is damaged.
  """
  out: dict[str, np.ndarray] = {}
  for file in _files(path):
    part = _read_file(file)
    if twice := sorted({*out} & {*part}):
      raise UserError(f"{path} holds {_listed(twice)} in two of its files.")
    out |= part
  return out


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  if not path.is_dir():
    if inputs.check(path).suffix in PICKLES:
      raise _pickled(path)
    return [path]
  if (path / WEIGHTS_FILE).is_file():
    return [path / WEIGHTS_FILE]
  if (path / INDEX_FILE).is_file():
    return _parts(path)
  found = sorted(path.glob("*.safetensors"))
  if len(found) == 1:
    return found
  if found:
    raise UserError(
      f"{path} holds {len(found)} files of weights and no {INDEX_FILE}: give"
      " the path of one file."
    )
  for pickled in sorted(path.iterdir()):
    if pickled.suffix in PICKLES:
      raise _pickled(pickled)
  raise UserError(f"{path} holds no {WEIGHTS_FILE}.")


def _parts(path: pathlib.Path) -> list[pathlib.Path]:
  index = inputs.read_object(path / INDEX_FILE)
  where = index.get("weight_map")
  if not isinstance(where, dict) or not where:
    raise UserError(f"{path / INDEX_FILE} has no weight_map.")
  names = sorted({str(name) for name in where.values()})
  for name in names:
    # Reads nothing outside the folder, even if the index lists it.
    if pathlib.PurePath(name).name != name or not (path / name).is_file():
      raise UserError(
        f"{name}, which {INDEX_FILE} names, is missing in {path}."
      )
  return [path / name for name in names]


def _pickled(path: pathlib.Path) -> UserError:
  return UserError(
    f"{path.name} is a Python pickle, which can run any program when it is"
    f" opened, and is not read. Get {WEIGHTS_FILE} of the same model, or make"
    f' it where PyTorch is installed: w = torch.load("{path.name}",'
    ' map_location="cpu", weights_only=True); safetensors.torch.save_file('
    f'w.get("best_state", w.get("state_dict", w)), "{WEIGHTS_FILE}"), which'
    " works for tensors by name, and for files of audiocraft and MusicFM, which"
    " have them under best_state or state_dict"
  )


def _read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
  arrays = tensors.read(path, "get it again")
  # The kind of bfloat16 in NumPy is "V". Overflow gives infinities, which
  # `apply` rejects.
  with np.errstate(over="ignore"):
    return {
      name: a.astype(np.float32) if a.dtype.kind in "fV" else a
      for name, a in arrays.items()
    }


def named_by_transformers(arrays: dict[str, np.ndarray]) -> bool:
  """Returns whether tensors are named as in transformers, not a release."""
  first = re.compile(r"(encoder|decoder)\.layers\.|text_encoder\.")
  return any(first.match(name) for name in arrays)


def part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  """Selects the tensors whose names begin with a prefix, and removes it."""
  return {
    name.removeprefix(prefix): array
    for name, array in arrays.items()
    if name.startswith(prefix)
  }


def read_config(path: pathlib.Path) -> dict[str, Any] | None:
  """Reads config.json of a folder; None if there is none."""
  file = path / CONFIG_FILE
  return inputs.read_object(file) if file.is_file() else None


def name_of(path: pathlib.Path) -> str:
  """Returns the name of a model: its id in the Hub's cache, or its file name.

  The cache stores `owner/name` in models--owner--name/snapshots/REVISION.
  """
  path = path.resolve()
  parts = [p for p in path.parts if re.fullmatch(r"models--[^/]+", p)]
  return parts[-1][len("models--") :].replace("--", "/") if parts else path.name
