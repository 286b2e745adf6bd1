"""Tokenizers of windows that overlap: one embedding, or row of codes, for each.

A clip shorter than a window is one window, and the network is told how much of
it is valid. Windows are always whole otherwise: the last samples that begin no
whole window are in the windows before, or left out.
"""

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdcodec import precision
from mmdcodec.tokenizers import long_features
from mmdcodec.tokenizers.clustered import Clustered


class Windowed(Clustered):
  """A network that embeds windows; see `Clustered` for more attributes.

  Attributes:
    model: the network; has `rate`, and `seconds` and `samples` of a window.
    window: seconds of audio that a row of `encode` describes.
    hop: samples from the beginning of a window to that of the next.
  """

  channels = 1
  # Vectors on the unit sphere.
  standardise = False

  def __init__(
    self,
    config: dict[str, Any],
    variables: Mapping[str, Any],
    model: Any,
    hop: int,
  ) -> None:
    """Takes what a bundle holds, and its network; see `Clustered`."""
    super().__init__(config, variables)
    self.model = precision.in_float32(model)
    self.rate, self.window = self.model.rate, self.model.seconds
    self.hop = hop
    self.frame_rate = self.rate / hop

  @abc.abstractmethod
  def embed_windows(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Embeds windows.

    Args:
      x: float32 [windows, samples, channels].
      lengths: int32 [windows], valid samples of each.

    Returns:
      float32 [windows, dim].
    """

  def frames_of(self, samples: int) -> int:
    """Returns the number of windows; see the top of this file."""
    return int(self._counts(np.array([samples]))[0])

  def _counts(self, lengths: np.ndarray) -> np.ndarray:
    """Windows [batch] of clips with `lengths` [batch] samples."""
    return 1 + np.maximum(lengths - self.model.samples, 0) // self.hop

  def features(
    self, x: np.ndarray, lengths: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Embeds the windows of clips; see `Clustered.features`.

    Returns:
      (float32 [batch, windows, dim], bool [batch, windows]).
    """
    return long_features.of_windows(
      self.embed_windows,
      x,
      lengths,
      span=self.model.samples,
      hop=self.hop,
      counts=self._counts(lengths),
    )
