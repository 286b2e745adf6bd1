"""Draws mel spectrograms as PNG bytes."""

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from mmdcodec.audio import transforms
from mmdcodec.evaluate.figures import SOFT, new_figure, style_axis, write_png

RANGE = 80.0  # dB shown below the loudest point
BANDS = 128


def spectrograms(
  audio: Mapping[str, np.ndarray], *, rate: int
) -> dict[str, bytes]:
  """Draws a mel spectrogram of each recording, with equal axes and colors.

  Args:
    audio: title -> [samples] or [samples, channels] (mixed to mono).
    rate: sample rate of all recordings, in Hz.

  Returns:
    Title -> PNG with that title. 0 dB is the loudest point of all recordings.
  """
  levels = {title: _mel_level(x, rate) for title, x in audio.items()}
  peak = max(float(level.max()) for level in levels.values())
  seconds = max(len(x) for x in audio.values()) / rate
  return {
    title: _draw(title, level, peak, (len(audio[title]) / rate, seconds), rate)
    for title, level in levels.items()
  }


def _draw(
  title: str,
  level: np.ndarray,
  peak: float,
  seconds: tuple[float, float],
  rate: int,
) -> bytes:
  """Draws one picture; `seconds` are the lengths of recording and axis."""
  figure = new_figure(5.6, 3.2)
  axis = figure.subplots()
  top = float(_mel(rate / 2))
  image = axis.imshow(
    level.T,
    origin="lower",
    aspect="auto",
    cmap="magma",
    interpolation="nearest",
    vmin=peak - RANGE,
    vmax=peak,
    extent=(0, seconds[0], 0, top),
  )
  axis.set_xlim(0, seconds[1])
  axis.set_title(title)
  axis.set_xlabel("time (s)")
  style_axis(axis, grid=False)
  ticks = [125, 250, 500, 1000, 2000, 4000, 8000, 16000]
  # Below 1 kHz the mel scale is linear and more ticks would overlap.
  ticks = [0, *(hz for hz in ticks if 500 <= hz < 0.75 * rate / 2), rate // 2]
  axis.set_yticks([float(_mel(hz)) for hz in ticks])
  axis.set_yticklabels([f"{hz / 1000:g}" for hz in ticks])
  axis.set_ylabel("frequency (kHz)")
  bar = figure.colorbar(image, ax=axis, pad=0.015, aspect=25)
  below = np.arange(-RANGE, 1, 20)
  bar.set_ticks(peak + below)
  bar.set_ticklabels([f"{db:g}" for db in below])
  bar.set_label("dB, 0 is the loudest point", color=SOFT, fontsize=8.5)
  bar.ax.tick_params(colors=SOFT, labelsize=8.5, length=0)
  bar.outline.set_visible(False)
  return write_png(figure)


def _mel_level(x: np.ndarray, rate: int) -> np.ndarray:
  """Computes the mel spectrum in dB, [frames, bands]."""
  x = np.asarray(x, np.float32)
  x = x.mean(-1) if x.ndim == 2 else x
  window = 2 ** round(math.log2(0.085 * rate))
  hop = window // 8
  # No more frames than the picture has pixels.
  hop *= max(1, 2 ** round(math.log2(max(1, len(x) / hop / 700))))
  level = transforms.log_mel(
    jnp.asarray(x), rate=rate, window=window, hop=min(hop, window), mels=BANDS
  )
  return np.asarray(level)


def _mel(hz: float) -> np.ndarray:
  return transforms.hz_to_mel(np.asarray(hz))
