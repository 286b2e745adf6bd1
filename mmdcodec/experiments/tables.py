"""Formats tables of experiments as text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def spread(values: ArrayLike, digits: int, sign: str = "") -> str:
  """Formats `mean ± standard deviation`, or a single value."""
  values = np.asarray(values, np.float64)
  if not values.size:
    return ""
  mean = f"{values.mean():{sign}.{digits}f}"
  if values.size == 1:
    return mean
  return f"{mean} ± {values.std(ddof=1):.{digits}f}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """Formats a Markdown table; all columns but the first are right-aligned."""
  lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
  return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
