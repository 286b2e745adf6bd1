"""Spectrograms and codes, as pictures for a page."""

from collections.abc import Mapping

import numpy as np

from mmdcodec.audio import files
from mmdcodec.demo import elements
from mmdcodec.demo.models import Model
from mmdcodec.evaluate import audio_plots, codebook_plots


def spectrograms(audio: Mapping[str, tuple[np.ndarray, int]]) -> dict[str, str]:
  """Draws spectrograms with equal axes and colors.

  Args:
    audio: title -> (audio [samples, channels], Hz).

  Returns:
    Title -> HTML.
  """
  rate = max(each for _, each in audio.values())
  same = {
    title: files.resample(x, rate=of, to=rate)
    for title, (x, of) in audio.items()
  }
  drawn = audio_plots.spectrograms(same, rate=rate)
  return {
    title: elements.picture(png, f"spectrogram: {title}")
    for title, png in drawn.items()
  }


def codes(model: Model, found: np.ndarray) -> str:
  """Draws codes [frames, codebooks] of a model; returns HTML."""
  png = codebook_plots.code_picture(
    found,
    sizes=model.codec.codebook_sizes[: found.shape[1]],
    frame_rate=model.codec.frame_rate,
  )
  return elements.picture(png, "codes over time")
