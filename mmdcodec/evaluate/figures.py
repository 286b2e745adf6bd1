"""Shared helpers for plots: figures, axis style, colors, PNG bytes.

Plots use Matplotlib's Agg canvas without pyplot: no display, no global state.
"""

import io
import os
from typing import Any

import numpy as np

from mmdcodec.store import paths

INK, SOFT, GRID = "#1c2330", "#5b6575", "#e3e7ee"
TRAIN, VALID = "#2b5fd9", "#e07b39"
DPI = 130


def new_figure(width: float, height: float) -> Any:
  """Makes an empty figure (size in inches) with automatic layout."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure((width, height), dpi=DPI, layout="constrained")
  FigureCanvasAgg(figure)
  return figure


def style_axis(axis: Any, grid: bool = True) -> None:
  """Sets colors and sizes of an axis, its title and its labels.

  Args:
    axis: Matplotlib axis.
    grid: whether to draw grid lines and two spines; False for images.
  """
  for side in ("top", "right", "left", "bottom"):
    axis.spines[side].set_visible(grid and side in ("left", "bottom"))
    axis.spines[side].set_color(GRID)
  axis.tick_params(colors=SOFT, labelsize=8.5, length=0 if grid else 3)
  axis.tick_params(which="minor", length=0)
  axis.title.set_color(INK)
  axis.title.set_fontsize(10)
  axis.xaxis.label.set_color(SOFT)
  axis.yaxis.label.set_color(SOFT)
  axis.xaxis.label.set_fontsize(8.5)
  axis.yaxis.label.set_fontsize(8.5)
  if grid:
    axis.grid(color=GRID, lw=0.8)
    axis.set_axisbelow(True)


def write_png(figure: Any, path: str | os.PathLike | None = None) -> bytes:
  """Returns the figure as a PNG, also written to `path` unless that is None."""
  file = io.BytesIO()
  figure.savefig(file, format="png")
  data = file.getvalue()
  if path is not None:
    paths.of(path).write_bytes(data)
  return data


def shades(number: int) -> list[tuple[float, float, float, float]]:
  """Returns one color per level, from dark (first) to light (last)."""
  from matplotlib import colormaps

  return [colormaps["viridis"](v) for v in np.linspace(0, 0.88, number)]
