"""Results as values that JSON has."""

import dataclasses
import math
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
  """Converts nested results to dicts, lists, numbers and text.

  Data classes and named tuples become dicts, numbers that are not finite None,
  and whatever else JSON lacks, as tags may hold, text.
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    names = [field.name for field in dataclasses.fields(value)]
    return {name: plain(getattr(value, name)) for name in names}
  if hasattr(value, "_asdict"):
    value = value._asdict()
  if isinstance(value, dict):
    return {key: plain(each) for key, each in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(each) for each in value]
  if isinstance(value, np.ndarray):
    return plain(value.tolist())
  if isinstance(value, np.generic):
    return plain(value.item())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  known = value is None or isinstance(value, (str, int, float))
  return value if known else str(value)
