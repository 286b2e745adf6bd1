"""Plots codebook usage, and codes over time, as PNG bytes."""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdcodec.evaluate import codebooks
from mmdcodec.evaluate.figures import (
  SOFT,
  TRAIN,
  VALID,
  new_figure,
  shades,
  style_axis,
  write_png,
)


def codebook_usage(
  counts: np.ndarray, *, path: str | os.PathLike | None = None
) -> bytes:
  """Plots how often the codes of each codebook are chosen.

  Left: frequency of codes relative to uniform usage, from the most to the least
  frequent. Right: share of codes in use, and perplexity as a share of the
  codebook size.

  Args:
    counts: [codebooks, size].
    path: PNG file to write, or None.

  Returns:
    PNG.
  """
  counts = np.asarray(counts, np.float64)
  levels, size = counts.shape
  found = codebooks.statistics(counts)
  figure = new_figure(10, 3.4)
  left, right = figure.subplots(1, 2)

  share = -np.sort(-counts, axis=1)
  share = share / np.maximum(share.sum(1, keepdims=True), 1) * size
  colors = shades(levels)
  rank = np.arange(1, size + 1)
  for level in range(levels):
    chosen = share[level] > 0
    left.plot(rank[chosen], share[level][chosen], color=colors[level], lw=1.6)
  left.axhline(1, color=SOFT, lw=1, ls="--")
  left.annotate(
    "uniform",
    (1, 1),
    xycoords=("axes fraction", "data"),
    xytext=(-4, 4),
    textcoords="offset points",
    ha="right",
    color=SOFT,
    fontsize=8,
  )
  left.set_yscale("log")
  left.yaxis.set_major_formatter("{x:g}")
  left.set_xlim(1, size)
  left.set_title("codes from frequent to rare")
  left.set_xlabel("rank of the code")
  left.set_ylabel("times uniform usage")
  _levels_legend(left, levels)

  position = np.arange(1, levels + 1)
  bars = (
    ("codes in use", 100 * found["usage"], TRAIN, -0.2),
    ("perplexity / size", 100 * found["perplexity"] / size, VALID, 0.2),
  )
  for label, values, color, shift in bars:
    right.bar(position + shift, values, 0.38, color=color, label=label)
    if levels <= 8:
      for at, value in zip(position + shift, values, strict=True):
        right.text(
          at, value + 1.5, f"{value:.0f}", ha="center", color=SOFT, fontsize=8
        )
  right.set_ylim(0, 124)  # room for the legend
  right.set_yticks(range(0, 101, 25))
  step = max(1, math.ceil(levels / 16))
  right.set_xticks(position[::step])
  right.set_title("codebook usage")
  right.set_xlabel("codebook")
  right.set_ylabel(f"% of {size} codes")
  right.legend(
    frameon=False, ncols=2, loc="upper center", fontsize=8, labelcolor=SOFT
  )
  for axis in (left, right):
    style_axis(axis)
  return write_png(figure, path)


def code_picture(
  codes: np.ndarray,
  *,
  sizes: Sequence[int],
  frame_rate: float,
  path: str | os.PathLike | None = None,
) -> bytes:
  """Draws codes over time, a row for each codebook with the first on top.

  Equal codes of a codebook have equal colors. Neighbouring numbers have similar
  colors, which means nothing: codes have no order.

  Args:
    codes: int [frames, codebooks].
    sizes: number of codes in each codebook.
    frame_rate: frames per second.
    path: PNG file to write, or None.

  Returns:
    PNG.
  """
  codes = np.asarray(codes)
  frames, levels = codes.shape
  figure = new_figure(5.6, min(4.8, 1.3 + 0.16 * levels))
  axis = figure.subplots()
  axis.imshow(
    codes.T / np.maximum(1, np.asarray(sizes)[:, None] - 1),
    aspect="auto",
    cmap="turbo",
    interpolation="nearest",
    vmin=0,
    vmax=1,
    extent=(0, frames / frame_rate, levels + 0.5, 0.5),
  )
  axis.set_yticks(range(1, levels + 1, max(1, math.ceil(levels / 8))))
  axis.set_title(f"{frames} frames of {levels} codes")
  axis.set_xlabel("time (s)")
  axis.set_ylabel("codebook")
  style_axis(axis, grid=False)
  return write_png(figure, path)


def _levels_legend(axis: Any, levels: int) -> None:
  """Draws a legend of all codebooks if they are few, otherwise of some."""
  from matplotlib.lines import Line2D

  shown = list(range(levels))
  if levels > 6:
    shown = sorted({0, levels // 3, 2 * levels // 3, levels - 1})
  colors = shades(levels)
  handles = [
    Line2D([], [], color=colors[k], lw=1.6, label=f"codebook {k + 1}")
    for k in shown
  ]
  axis.legend(
    handles=handles,
    frameon=False,
    fontsize=8,
    loc="lower left",
    labelcolor=SOFT,
  )
