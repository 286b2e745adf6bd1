"""Reads and writes safetensors files: arrays by name."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.store import cached, inputs, paths, scaled

# Types that stand for numbers by themselves. Smaller floats need scales.
_TYPES = {"BOOL", "BF16"} | {
  f"{kind}{bits}" for kind in "FIU" for bits in (16, 32, 64)
}
_TYPES |= {"I8", "U8", "C64"}


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a file with the rights of any other new file.

  Args:
    path: the file, which must not exist.
    arrays: contiguous arrays by name.

  Raises:
    OSError: the file exists, or cannot be written.
  """
  import safetensors.numpy

  path = paths.of(path)
  # safetensors would give it to its owner alone.
  with path.open("xb") as file:
    rights = os.fstat(file.fileno()).st_mode & 0o777
  safetensors.numpy.save_file(dict(arrays), path)
  path.chmod(rights)


def read(path: str | os.PathLike, advice: str) -> dict[str, np.ndarray]:
  """Reads a file; integers with scales become floats, see `scaled`.

  Args:
    path: the file.
    advice: what to do if it is damaged.

  Raises:
    UserError: there is no such file, it is damaged or a pointer to the real
      one, or holds arrays of other types than numbers of 16 bits or more,
      integers and truth values.
  """
  import ml_dtypes  # noqa: F401  NumPy knows bfloat16 from it.
  import safetensors
  import safetensors.numpy

  inputs.open_file(path).close()
  file = cached.local(paths.of(path))
  try:
    with safetensors.safe_open(file, framework="np") as opened:
      types = {
        name: opened.get_slice(name).get_dtype() for name in opened.keys()
      }
    if other := {*types.values()} - _TYPES:
      name = next(name for name, type_ in types.items() if type_ in other)
      raise UserError(
        f"{path}: {name} is of type {types[name]}; expected floats of 16 bits"
        " or more: get another version of the weights, or convert them."
      )
    arrays = safetensors.numpy.load_file(file)
  except safetensors.SafetensorError as error:
    raise UserError(f"{path} is damaged ({error!s:.200}); {advice}.") from None
  try:
    return scaled.unpack(arrays)
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error!s:.200}); {advice}.") from None


def nested(
  path: str | os.PathLike, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Converts names such as "params/encoder/kernel" to nested dicts.

  Args:
    path: file of the arrays, for errors.
    arrays: arrays by name.

  Raises:
    UserError: an array lies inside another one.
  """
  found: dict[str, Any] = {}
  for name, array in arrays.items():
    *outer, last = name.split("/")
    inner: Any = found
    for key in outer:
      inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner
    if not isinstance(inner, dict) or last in inner:
      raise UserError(
        f"{path}: {name} is the name of an array, and also part of the name of"
        " another; expected the arrays of one model."
      )
    inner[last] = array
  return found
