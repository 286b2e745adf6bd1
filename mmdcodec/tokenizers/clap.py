"""LAION-CLAP with its weights: audio and texts in, vectors or codes out.

It is used like our own joint embedding, with windows of 10 s, one a second.
Two things differ: a clip shorter than a window is repeated in it, and a clip's
embedding is the mean of its windows before they are scaled to length 1.
"""

from typing import Any

import numpy as np

from mmdcodec.models import clap
from mmdcodec.tokenizers.mulan import Mulan, clip_mean, unit_rows


class Clap(Mulan):
  """A CLAP with its weights; see `Mulan`."""

  kind = "clap"
  build = staticmethod(clap.from_config)

  def features(
    self, x: np.ndarray, lengths: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Embeds the windows of clips; see `Windowed.features`."""
    rows, valid = super().features(x, lengths)
    return unit_rows(rows), valid

  def embed_audio(
    self, x: Any, rate: int | None = None, *, lengths: Any = None
  ) -> np.ndarray:
    """Embeds clips of any length; see `Mulan.embed_audio`."""
    rows, valid = super().features(*self.prepare(x, rate, lengths))
    return clip_mean(rows, valid)
