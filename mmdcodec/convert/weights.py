"""Tensors out of safetensors files, each to be used exactly once.

A converter says what it makes of which tensors as a list of `Rule`s, before it
touches one. So a file that does not fit is refused with everything that is
missing and everything that is left over, and no tensor is silently ignored.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax
import numpy as np

from mmdcodec.errors import UserError

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE = WEIGHTS_FILE + ".index.json"
PICKLES = (".bin", ".pt", ".pth", ".th", ".ckpt", ".pkl")

_SHOWN = 20  # names in an error message


@dataclasses.dataclass(frozen=True)
class Rule:
  """What is made of which tensors.

  Attributes:
    targets: paths of ours, "params/encoder/conv_in/bias".
    names: of the tensors it needs.
    make: takes them in this order, and gives one array per target.
    optional: tensors it uses where they are there; `make` takes them after
      those it needs, None for one that isn't there.
  """

  targets: tuple[str, ...]
  names: tuple[str, ...]
  make: Callable[..., Sequence[np.ndarray]] = lambda *arrays: arrays
  optional: tuple[str, ...] = ()


class Misfit(ValueError):
  """Tensors that do not fit together.

  Attributes:
    names: of them.
  """

  def __init__(self, names: Sequence[str]):
    super().__init__(", ".join(names))
    self.names = names


def stacked(
  names: Sequence[str],
  make: Callable[[np.ndarray], np.ndarray] = lambda array: array,
) -> Callable[..., Sequence[np.ndarray]]:
  """A `Rule.make` for the tensors of all layers, one array of them all.

  Args:
    names: of the tensors, for the error.
    make: what each becomes before.

  Returns:
    A function of the tensors. It raises Misfit with those whose shape is not
    that of the others.
  """

  def stack(*arrays):
    # Most of them are as they should be.
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
  """Uses every tensor once and makes every array that is wanted.

  Args:
    rules: of one model.
    arrays: tensors by name.
    shapes: of all arrays that are wanted, by path.

  Returns:
    arrays by path; floats as float32.

  Raises:
    UserError: with the names of all tensors that are missing, left over, of
      a shape that does not fit, no floats, or not finite.
    ValueError: the rules use a tensor twice or do not make what is wanted: no
      fault of the file's.
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
  out, wrong = {}, []
  needed = [name for rule in rules for name in rule.names]
  bad = [n for n in needed if arrays[n].dtype.kind != "f"]
  bad += [n for n in arrays if not np.isfinite(arrays[n]).all()]
  if bad:
    raise UserError(
      f"the weights can't be used: {len(bad)} of other numbers than finite"
      f" floats ({_listed(bad)})."
    )
  for rule in rules:
    given = [arrays[name] for name in rule.names]
    given += [arrays.get(name) for name in rule.optional]
    try:
      made = rule.make(*given)
    except Misfit as error:
      wrong += _shaped(error.names, arrays)
      continue
    except ValueError:  # shapes that can't be transposed or stacked
      wrong += _shaped(rule.names, arrays)
      continue
    for target, array in zip(rule.targets, made, strict=True):
      out[target] = array
      if array.shape != shapes[target]:
        wrong += _shaped(rule.names, arrays)
  if wrong:
    raise UserError(
      f"the weights do not fit: {len(wrong)} of another shape than the config"
      f" says ({_listed(wrong)})."
    )
  return out


def fill(
  rules: Sequence[Rule], arrays: dict[str, np.ndarray], like: dict[str, Any]
) -> dict[str, Any]:
  """`apply`, for a tree.

  Args:
    rules: of one model.
    arrays: tensors by name.
    like: variables of the model, or their shapes and dtypes, nested.

  Returns:
    Variables nested alike.

  Raises:
    UserError, ValueError: as `apply`.
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
  """All tensors of a file or folder by name; floats as float32.

  Args:
    path: a .safetensors file; or a folder with model.safetensors, with its
      parts and their index, or with one file of another name.

  Raises:
    UserError: there are none, only pickled ones, or they are damaged.
  """
  out: dict[str, np.ndarray] = {}
  for file in _files(path):
    part = _read_file(file)
    if twice := sorted({*out} & {*part}):
      raise UserError(f"{path} holds {_listed(twice)} in two of its files.")
    out |= part
  return out


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  if path.is_file():
    if path.suffix in PICKLES:
      raise _pickled(path)
    return [path]
  if not path.is_dir():
    raise UserError(f"{path}: no such file or folder.")
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
      " the name of the one that is meant."
    )
  for pickled in sorted(path.iterdir()):
    if pickled.suffix in PICKLES:
      raise _pickled(pickled)
  raise UserError(f"{path} holds no {WEIGHTS_FILE}.")


def _parts(path: pathlib.Path) -> list[pathlib.Path]:
  index = _read_json(path / INDEX_FILE)
  where = index.get("weight_map")
  if not isinstance(where, dict) or not where:
    raise UserError(f"{path / INDEX_FILE} has no weight_map.")
  names = sorted({str(name) for name in where.values()})
  for name in names:
    # Nothing outside of the folder, whatever the index says.
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
    f'w.get("best_state", w), "{WEIGHTS_FILE}"), which takes a file of tensors'
    " by name, or one of audiocraft, that has them under best_state"
  )


def _read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
  import safetensors
  import safetensors.numpy

  try:
    arrays = safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as error:
    raise UserError(f"{path} is damaged: {error}.") from None
  # bfloat16 has no kind of its own in NumPy: "V". What overflows is refused
  # with all that is not finite.
  with np.errstate(over="ignore"):
    return {
      name: a.astype(np.float32) if a.dtype.kind in "fV" else a
      for name, a in arrays.items()
    }


def named_by_transformers(arrays: dict[str, np.ndarray]) -> bool:
  """Whether tensors have the names of transformers, not of a release."""
  first = re.compile(r"(encoder|decoder)\.layers\.|text_encoder\.")
  return any(first.match(name) for name in arrays)


def part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  """The tensors whose names begin with a prefix, without it."""
  return {
    name.removeprefix(prefix): array
    for name, array in arrays.items()
    if name.startswith(prefix)
  }


def read_config(path: pathlib.Path) -> dict[str, Any] | None:
  """config.json of a folder, or None."""
  file = path / CONFIG_FILE
  return _read_json(file) if file.is_file() else None


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} can't be read as JSON: {error}.") from None
  if not isinstance(value, dict):
    raise UserError(f"{path} is not a JSON object.")
  return value


def name_of(path: pathlib.Path) -> str:
  """What to call a model: its id if it lies in the Hub's cache, else the file.

  The cache keeps `owner/name` in models--owner--name/snapshots/REVISION.
  """
  path = path.resolve()
  parts = [p for p in path.parts if re.fullmatch(r"models--[^/]+", p)]
  return parts[-1][len("models--") :].replace("--", "/") if parts else path.name
