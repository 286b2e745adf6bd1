"""Plots training curves as PNG bytes."""

import math
import os
import pathlib
from typing import Any

import numpy as np

from mmdcodec.evaluate.figures import (
  INK,
  SOFT,
  TRAIN,
  VALID,
  new_figure,
  shades,
  style_axis,
  write_png,
)
from mmdcodec.store import metrics as metrics_lib
from mmdcodec.store import paths

# Titles of the plots, in order. Other metrics follow alphabetically.
TITLES = {
  "loss": "loss",
  "si_sdr": "SI-SDR (dB)",
  "mel_distance": "mel distance (dB)",
  "stft_distance": "STFT distance",
  "mel": "mel loss",
  "stft": "STFT loss",
  "waveform": "waveform loss",
  "commitment": "commitment loss",
  "usage": "codes used (%)",
  "perplexity": "perplexity of codes",
  "replaced": "codes replaced in a step",
  "gradient_norm": "gradient norm",
  "learning_rate": "learning rate",
}
KINDS = {"train": "training", "valid": "validation"}
HIDDEN = (
  "not_finite",
  "steps_per_second",
  "audio_per_second",
  "audio_per_second_per_device",
  "tokens_per_second_per_device",
  "mfu",
  "hbm_gib",
  "hbm_peak_gib",
  "host_seconds",
  "slowest_host",
  "skipped_steps",
  "skipped_in_a_row",
)


def curves(
  metrics: str | os.PathLike, *, path: str | os.PathLike | None = None
) -> bytes:
  """Plots training curves from a metrics file, one small plot per metric.

  Training and validation share a plot. Metrics per codebook ("train/usage/0",
  ...) have one line per codebook, from dark to light.

  Args:
    metrics: the `metrics.jsonl` of a run, or the run's folder.
    path: PNG file to write, or None.

  Returns:
    PNG.

  Raises:
    ValueError: the file holds no metrics yet.
  """
  series = _series(paths.of(metrics))
  names = sorted(
    series, key=lambda n: (list(TITLES).index(n) if n in TITLES else 99, n)
  )
  if not names:
    raise ValueError(f"{metrics} holds no measures yet")
  columns = min(3, len(names))
  rows = math.ceil(len(names) / columns)
  figure = new_figure(3.6 * columns, 2.3 * rows + 0.3)
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for axis, name in zip(axes, names, strict=False):
    _curve(axis, name, series[name])
  for axis in axes[len(names) :]:
    axis.set_visible(False)
  return write_png(figure, path)


def _series(path: pathlib.Path) -> dict:
  """Reads lines by name: {(kind, level): (steps, values)}; no level is -1."""
  series: dict[str, dict] = {}
  for row in metrics_lib.read(path if path.is_dir() else path.parent):
    for key, value in row.items():
      kind, _, name = key.partition("/")
      if kind not in KINDS or not name or value is None:
        continue
      name, _, level = name.partition("/")
      if name in HIDDEN or (level and not level.isdigit()):
        continue
      lines = series.setdefault(name, {})
      steps, values = lines.setdefault((kind, int(level or -1)), ([], []))
      steps.append(row["step"])
      values.append(value)
  return series


def _curve(axis: Any, name: str, lines: dict) -> None:
  """Plots one metric over steps."""
  from matplotlib.lines import Line2D

  levels = max(level for _, level in lines) + 1
  kinds = sorted({kind for kind, _ in lines})
  if levels and "valid" in kinds:
    kinds = ["valid"]  # two bundles of lines would hide each other
  scale = 100 if name == "usage" else 1
  colors = shades(max(levels, 1))

  def color(kind: str, level: int) -> Any:
    if levels:
      return colors[level]
    return VALID if kind == "valid" else TRAIN

  everything = []
  for (kind, level), (steps, values) in sorted(lines.items()):
    if kind not in kinds:
      continue
    values = scale * np.asarray(values, float)
    everything.append(values)
    axis.plot(
      steps,
      values,
      color=color(kind, level),
      lw=1.5,
      marker="o" if len(steps) < 12 else None,
      ms=3,
    )
  everything = np.concatenate(everything)
  if everything.min() > 0 and everything.max() > 20 * everything.min():
    axis.set_yscale("log")
  elif levels and everything.min() >= 0:
    axis.set_ylim(bottom=0)
  axis.set_xlabel("step")
  style_axis(axis)
  axis.set_title(
    TITLES.get(name, name.replace("_", " ")), loc="left", fontsize=10, color=INK
  )
  note = " and ".join(KINDS.get(kind, kind) for kind in kinds)
  if levels > 1:
    axis.set_xlabel(f"step; codebooks 1 (dark) to {levels} (light)")
  if len(kinds) > 1:
    handles = [
      Line2D([], [], color=color(k, -1), label=KINDS.get(k, k)) for k in kinds
    ]
    axis.legend(handles=handles, frameon=False, fontsize=8, labelcolor=SOFT)
  else:
    axis.set_title(note, loc="right", fontsize=7.5, color=SOFT)
