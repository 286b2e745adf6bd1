"""Plots the results of the independence experiment as PNG bytes."""

import os
from typing import Any

import numpy as np

from mmdcodec.evaluate.figures import SOFT, new_figure, style_axis, write_png
from mmdcodec.experiments.arms import BASELINE

# The baseline is gray; the other arms use these colors in order.
COLORS = (
  "#e07b39", "#2b5fd9", "#1b998b", "#b5179e", "#c9a227", "#d62839",
  "#5f0f40", "#6a994e", "#3a86ff", "#8d6e63", "#00a8cc", "#ff6f91",
)  # fmt: skip
# Dashed lines: increase of mel distance (%), and the decrease of total
# correlation (%) reported in arXiv 2406.02315.
WORSE, PUBLISHED = 3.0, 32.0


def tradeoff(found: dict, *, path: str | os.PathLike | None = None) -> bytes:
  """Plots changes of total correlation against changes of mel distance.

  Both are relative to the run without the loss of the same seed: a small point
  for each run, and a large one for their mean. Seeds whose run without the loss
  has a value of 0 or less are left out, because relative changes are undefined.

  Args:
    found: from `arm_report.collect`.
    path: PNG file to write, or None.

  Returns:
    PNG.
  """
  figure = new_figure(8.2, 4.6)
  axis = figure.subplots()
  point = lambda r: (r["mel_distance"], r["delay"]["total_correlation"])
  base = {
    seed: np.array(point(r))
    for seed, r in found.get(BASELINE, {}).items()
    if min(point(r)) > 0
  }
  for (arm, results), color in zip(found.items(), _colors(found), strict=True):
    points = [
      100 * (point(r) / base[seed] - 1)
      for seed, r in results.items()
      if seed in base
    ]
    if not points:
      continue
    axis.scatter(*np.transpose(points), s=16, color=color, alpha=0.5, lw=0)
    mean = np.mean(points, 0)
    axis.scatter(*mean, s=75, color=color, label=arm, lw=0, zorder=3)
  for line in (axis.axvline, axis.axhline):
    line(0, color=SOFT, lw=0.8)
  axis.axvline(WORSE, color=SOFT, lw=1, ls="--")
  axis.axhline(-PUBLISHED, color=SOFT, lw=1, ls="--")
  axis.margins(0.08)
  axis.set_xlabel("change of mel distance (%), lower is better")
  axis.set_ylabel("change of total correlation, delay (%)")
  _legend(figure, axis)
  return write_png(figure, path)


def training(found: dict, *, path: str | os.PathLike | None = None) -> bytes:
  """Plots dependence over training, and against kernel measures.

  Left: total correlation by step. Middle and right: total correlation against
  MMD with the paper's kernel and normalised dHSIC, one point per checkpoint.
  Lines are means over the seeds.

  Args:
    found: from `arm_report.collect`, with `curve` where it was measured.
    path: PNG file to write, or None.

  Returns:
    PNG.
  """
  figure = new_figure(12, 4.0)
  axes = figure.subplots(1, 3)
  total = lambda m: m["delay"]["total_correlation"]
  kinds = (
    (lambda m: m["step"], "step"),
    (lambda m: 1000 * m["delay"]["mmd"], "1000 MMD², paper's kernel, delay"),
    (
      lambda m: 100 * (m["delay"]["dhsic"] - m["delay"]["dhsic_null"]),
      "dHSIC, delay (% of its maximum)",
    ),
  )
  for (arm, results), color in zip(found.items(), _colors(found), strict=True):
    curves = [[*r["curve"], r] for r in results.values() if "curve" in r]
    if not curves:
      continue
    y = np.mean([[total(m) for m in curve] for curve in curves], 0)
    for axis, (value, _) in zip(axes, kinds, strict=True):
      x = np.mean([[value(m) for m in curve] for curve in curves], 0)
      axis.plot(x, y, color=color, lw=1.4, marker="o", ms=2.5, label=arm)
      axis.plot(x[-1], y[-1], color=color, marker="o", ms=6)
  for axis, (_, label) in zip(axes, kinds, strict=True):
    axis.set_ylim(bottom=0)
    axis.set_xlabel(label)
    style_axis(axis)
  axes[0].set_ylabel("total correlation of delayed codes (bits per frame)")
  _legend(figure, axes[0])
  return write_png(figure, path)


def _colors(found: dict) -> list[str]:
  """Returns a color for each arm."""
  rest = iter(COLORS * (len(found) // len(COLORS) + 1))
  return [SOFT if arm == BASELINE else next(rest) for arm in found]


def _legend(figure: Any, axis: Any) -> None:
  """Lists the arms to the right of the plot."""
  style_axis(axis)
  figure.legend(
    *axis.get_legend_handles_labels(),
    frameon=False,
    fontsize=8.5,
    loc="outside right upper",
    labelcolor=SOFT,
  )
