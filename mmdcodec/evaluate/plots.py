"""Pictures of audio, training and codes, as PNG bytes.

Every function returns the bytes of a PNG and also writes them to `path` if one
is given.
"""

import math
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from mmdcodec.evaluate import codebooks
from mmdcodec.evaluate.figures import (
  INK,
  SOFT,
  new_figure,
  style_axis,
  write_png,
)

TRAIN, VALID = "#2b5fd9", "#e07b39"
RANGE = 80.0  # dB shown below the loudest point
BANDS = 128

# What training curves show, in this order, and how it is called. Names that
# are not here follow in the order of the alphabet.
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
  "steps_per_second",
  "audio_per_second",
  "skipped_steps",
  "skipped_in_a_row",
)


def spectrogram_pair(
  x: np.ndarray,
  y: np.ndarray,
  *,
  rate: int,
  titles: tuple[str, str] = ("original", "reconstruction"),
  path: str | os.PathLike | None = None,
) -> bytes:
  """Mel spectrograms side by side, on one scale of colours.

  Args:
    x: original, [samples] or [samples, channels] (mixed to one).
    y: reconstruction, likewise.
    rate: Hz of both.
    titles: above the pictures.
    path: of a PNG file to write, or None.

  Returns:
    PNG.
  """
  return spectrograms(
    dict(zip(titles, (x, y), strict=True)), rate=rate, path=path
  )


def spectrograms(
  audio: Mapping[str, np.ndarray],
  *,
  rate: int,
  path: str | os.PathLike | None = None,
) -> bytes:
  """Mel spectrograms side by side, on one scale of colours.

  Args:
    audio: title -> [samples] or [samples, channels] (mixed to one).
    rate: Hz of all of them.
    path: of a PNG file to write, or None.

  Returns:
    PNG.
  """
  levels = [_mel_level(x, rate) for x in audio.values()]
  peak = max(level.max() for level in levels)
  figure = new_figure(5 * len(levels), 3.2)
  axes = figure.subplots(
    1, len(levels), sharex=True, sharey=True, squeeze=False
  )
  axes = axes[0]
  top = float(_mel(rate / 2))
  for axis, level, title in zip(axes, levels, audio, strict=True):
    image = axis.imshow(
      level.T,
      origin="lower",
      aspect="auto",
      cmap="magma",
      interpolation="nearest",
      vmin=peak - RANGE,
      vmax=peak,
      extent=(0, len(audio[title]) / rate, 0, top),
    )
    axis.set_title(title)
    axis.set_xlabel("time (s)")
    style_axis(axis, grid=False)
  ticks = [125, 250, 500, 1000, 2000, 4000, 8000, 16000]
  # Below 1 kHz the mel scale is linear: ticks would touch each other.
  ticks = [0, *(hz for hz in ticks if 500 <= hz < 0.75 * rate / 2), rate // 2]
  axes[0].set_yticks([float(_mel(hz)) for hz in ticks])
  axes[0].set_yticklabels([f"{hz / 1000:g}" for hz in ticks])
  axes[0].set_ylabel("frequency (kHz)")
  bar = figure.colorbar(image, ax=list(axes), pad=0.015, aspect=25)
  below = np.arange(-RANGE, 1, 20)
  bar.set_ticks(peak + below)
  bar.set_ticklabels([f"{db:g}" for db in below])
  bar.set_label("dB, 0 is the loudest point", color=SOFT, fontsize=8.5)
  bar.ax.tick_params(colors=SOFT, labelsize=8.5, length=0)
  bar.outline.set_visible(False)
  return write_png(figure, path)


def curves(
  metrics: str | os.PathLike, *, path: str | os.PathLike | None = None
) -> bytes:
  """Training curves from a metrics file, one small picture per measure.

  Values of training and validation share a picture; measures per level
  ("train/usage/0", ...) are one line a level, from dark to light.

  Args:
    metrics: the `metrics.jsonl` of a run, or the run's folder.
    path: of a PNG file to write, or None.

  Returns:
    PNG.

  Raises:
    ValueError: the file holds no measures yet.
  """
  series = _series(pathlib.Path(metrics))
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


def codebook_usage(
  counts: np.ndarray, *, path: str | os.PathLike | None = None
) -> bytes:
  """How often the codes of each codebook are chosen.

  Left: codes of each level from the most to the least frequent, against
  uniform usage. Right: share of codes in use, and perplexity as a share of the
  size of the codebook.

  Args:
    counts: [codebooks, size].
    path: of a PNG file to write, or None.

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
  colors = _shades(levels)
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


def _mel_level(x: np.ndarray, rate: int) -> np.ndarray:
  """Mel spectrum in dB, [frames, bands]."""
  from mmdcodec.audio import transforms

  x = np.asarray(x, np.float32)
  x = x.mean(-1) if x.ndim == 2 else x
  window = 2 ** round(math.log2(0.085 * rate))
  hop = window // 8
  # No more frames than the picture has pixels.
  hop *= max(1, 2 ** round(math.log2(max(1, len(x) / hop / 700))))
  level = transforms.log_mel(
    x, rate=rate, window=window, hop=min(hop, window), mels=BANDS
  )
  return np.asarray(level)


def _mel(hz: float) -> np.ndarray:
  from mmdcodec.audio import transforms

  return transforms.hz_to_mel(np.asarray(hz))


def _series(path: pathlib.Path) -> dict:
  """Lines of each name: {(kind, level): (steps, values)}, level -1 for none."""
  from mmdcodec.store import metrics

  series = {}
  for row in metrics.read(path if path.is_dir() else path.parent):
    for key, value in row.items():
      kind, _, name = key.partition("/")
      if not name or value is None:
        continue
      name, _, level = name.partition("/")
      if name in HIDDEN or (level and not level.isdigit()):
        continue
      lines = series.setdefault(name, {})
      steps, values = lines.setdefault((kind, int(level or -1)), ([], []))
      steps.append(row["step"])
      values.append(value)
  return series


def _curve(axis, name: str, lines: dict) -> None:
  """One measure over steps."""
  from matplotlib.lines import Line2D

  levels = max(level for _, level in lines) + 1
  kinds = sorted({kind for kind, _ in lines})
  if levels and "valid" in kinds:
    kinds = ["valid"]  # two bundles of lines would hide each other
  scale = 100 if name == "usage" else 1
  shades = _shades(max(levels, 1))

  def color(kind, level):
    if levels:
      return shades[level]
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


def _shades(number: int) -> list:
  """One colour a level, from dark (first) to light (last)."""
  from matplotlib import colormaps

  return [colormaps["viridis"](v) for v in np.linspace(0, 0.88, number)]


def _levels_legend(axis, levels: int) -> None:
  """Which colour is which codebook: all of few, some of many."""
  from matplotlib.lines import Line2D

  shown = range(levels)
  if levels > 6:
    shown = sorted({0, levels // 3, 2 * levels // 3, levels - 1})
  colors = _shades(levels)
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
