"""Plots the mutual information of codebooks as PNG bytes."""

import os
from collections.abc import Mapping

import numpy as np

from mmdcodec.evaluate.figures import (
  INK,
  SOFT,
  new_figure,
  style_axis,
  write_png,
)
from mmdcodec.evaluate.mutual_information import MutualInformation

LABELLED = 10  # maximum number of codebooks for numbers in the cells


def heat_map(
  pairs: Mapping[str, MutualInformation],
  *,
  path: str | os.PathLike | None = None,
) -> bytes:
  """Draws heat maps of mutual information, side by side on one scale.

  Significant cells have a dot. Cells of codebooks that are never predicted
  together are empty.

  Args:
    pairs: title -> mutual information to show.
    path: PNG file to write, or None.

  Returns:
    PNG.
  """
  books = len(next(iter(pairs.values())).bits)
  shown = [each.bits for each in pairs.values()]
  known = [each[np.isfinite(each)] for each in shown]
  top = max((each.max() for each in known if each.size), default=0.0)
  top = max(float(top), 1e-3)
  side = 3.9 if books <= LABELLED else 5.2
  figure = new_figure(side * len(pairs) + 1.0, side)
  axes = np.ravel(figure.subplots(1, len(pairs)))
  ticks = np.arange(0, books, 1 if books <= 16 else 4)
  for axis, (title, each) in zip(axes, pairs.items(), strict=True):
    image = axis.imshow(
      np.maximum(each.bits, 0), cmap="viridis_r", vmin=0, vmax=top
    )
    marked = each.significant & np.isfinite(each.bits)
    row, column = np.nonzero(marked)
    bright = each.bits[row, column] > 0.5 * top
    # Below the number if there is one.
    lower = 0.3 if books <= LABELLED else 0.0
    axis.scatter(
      column,
      row + lower,
      s=14 if books <= LABELLED else 3,
      c=np.where(bright, "white", INK),
      gid="significant",
    )
    if books <= LABELLED:
      for i, j in zip(*np.nonzero(np.isfinite(each.bits)), strict=True):
        value = each.bits[i, j]
        axis.text(
          j,
          i,
          f"{value:.2f}" if abs(value) >= 0.005 else "0",
          ha="center",
          va="center",
          fontsize=8.5,
          color="white" if value > 0.5 * top else INK,
        )
    axis.set_xticks(ticks, ticks + 1)
    axis.set_yticks(ticks, ticks + 1)
    axis.set_xlabel("codebook")
    axis.set_ylabel("codebook")
    axis.set_title(title)
    style_axis(axis, grid=False)
  bar = figure.colorbar(image, ax=list(axes), pad=0.02, aspect=22)
  bar.set_label("bits above chance; dot: significant", color=SOFT, fontsize=8.5)
  bar.ax.tick_params(colors=SOFT, labelsize=8.5, length=0)
  bar.outline.set_visible(False)
  return write_png(figure, path)
