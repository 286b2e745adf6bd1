"""Arrays of floats as integers of 8 bits with a scale for each row.

A row is the last axis. In a file, `kernel` [..., n] of int8 has its scales
beside it, `kernel.int8_scale` [..., 1]. Rows of normally distributed weights
have an error of less than 1% of their standard deviation.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

SCALE = ".int8_scale"
_LARGEST = 127


def pack(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns (integers [..., n], scales [..., 1]) of floats [..., n]."""
  array = np.asarray(array, np.float32)
  scale = np.abs(array).max(-1, keepdims=True, initial=0) / _LARGEST
  # As it is stored, so that its rounding adds no error.
  scale = scale.astype(jnp.bfloat16)
  exact = scale.astype(np.float32)
  exact[exact == 0] = 1
  values = np.clip(np.rint(array / exact), -_LARGEST, _LARGEST)
  return values.astype(np.int8), scale


def pack_parameters(variables: dict[str, Any]) -> dict[str, Any]:
  """Packs the parameters of a model and of its parts.

  The encoder of a codec becomes bfloat16, because codes depend on small
  differences, and so do vectors, which are few. (Those of scanned blocks are
  rows of one array.) Statistics and codebooks stay as they are.

  Args:
    variables: collections by name, or those of the parts by theirs; "params"
      may be at any depth.
  """

  def convert(tree: Mapping[str, Any], as_rows: bool | None) -> dict[str, Any]:
    """as_rows: None outside of parameters, False for a codec's encoder."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
      if isinstance(value, Mapping):
        inside = True if key == "params" and as_rows is None else as_rows
        if key == "encoder" and as_rows and "decoder" in tree:
          inside = False
        found[key] = convert(value, inside)
      elif as_rows is None or not jnp.issubdtype(value.dtype, jnp.floating):
        found[key] = value
      elif as_rows and value.ndim > 1:
        found[key], found[key + SCALE] = pack(value)
      else:
        found[key] = np.asarray(value).astype(jnp.bfloat16)
    return found

  return convert(variables, None)


def unpack(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns arrays by name with float32 in the place of integers and scales.

  Args:
    arrays: of a file; those without scales stay as they are.

  Raises:
    ValueError: scales without an array of int8 whose rows they are for.
  """
  found = {k: v for k, v in arrays.items() if not k.endswith(SCALE)}
  for key, scale in arrays.items():
    if not key.endswith(SCALE):
      continue
    name = key.removesuffix(SCALE)
    values = found.get(name)
    if (
      values is None
      or values.dtype != np.int8
      or scale.shape != (*values.shape[:-1], 1)
      or not jnp.issubdtype(scale.dtype, jnp.floating)
    ):
      raise ValueError(f"{key} has no array {name} of int8 with as many rows")
    # Damaged scales become infinities, which whoever checks weights finds.
    with np.errstate(over="ignore"):
      found[name] = values.astype(np.float32) * scale.astype(np.float32)
  return found
