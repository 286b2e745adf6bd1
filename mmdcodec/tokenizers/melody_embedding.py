"""A melody embedding with its weights: audio in, vectors or codes out.

A clip is heard in windows of 4 s, one every 3 s, so that 10 s give three of
them (MusicLM, arXiv 2301.11325). A clip shorter than a window is one window, in
which what is missing is masked. The last seconds that begin no whole window are
left out.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmdcodec import precision
from mmdcodec.models import melody_embedding
from mmdcodec.tokenizers import long_features
from mmdcodec.tokenizers.clustered import Clustered

# From one window to the next, as a share of a window.
STRIDE = 0.75


class Melody(Clustered):
  """A melody embedding with its weights; see `Clustered` for more attributes.

  Attributes:
    model: the network.
    window: seconds of audio that a row of `encode` describes.
  """

  kind, channels = "melody_embedding", 1
  # Vectors on the unit sphere.
  standardise = False
  # MusicLM's, arXiv 2301.11325, 3.4.
  usual_levels, usual_codes = 24, 512

  def __init__(
    self,
    config: dict[str, Any],
    variables: Mapping[str, Any],
    assets: Mapping[str, bytes] | None = None,
  ) -> None:
    """Takes what a bundle of kind "melody_embedding" holds.

    Raises:
      UserError: a field is out of its bounds, or arrays do not fit.
    """
    del assets
    super().__init__(config, variables)
    self.model = precision.in_float32(
      melody_embedding.from_config(config["model"])
    )
    self.rate, self.window = self.model.rate, self.model.seconds
    self._hop = max(1, round(STRIDE * self.model.samples))
    self.frame_rate = self.rate / self._hop
    self._apply = jax.jit(precision.exactly(self.model.apply))

  def frames_of(self, samples: int) -> int:
    """Returns the number of windows; see the top of this file."""
    return int(self._counts(np.array([samples]))[0])

  def _counts(self, lengths: np.ndarray) -> np.ndarray:
    """Windows [batch] of clips with `lengths` [batch] samples."""
    return 1 + np.maximum(lengths - self.model.samples, 0) // self._hop

  def features(
    self, x: np.ndarray, lengths: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Embeds the windows of clips; see `Clustered.features`.

    Returns:
      (float32 [batch, windows, dim] of norm 1, bool [batch, windows]).
    """

    def network(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
      return np.asarray(self._apply(self.variables, x, lengths))

    return long_features.of_windows(
      network,
      x,
      lengths,
      span=self.model.samples,
      hop=self._hop,
      counts=self._counts(lengths),
    )

  def embed(
    self, x: Any, rate: int | None = None, *, lengths: Any = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Embeds the windows of clips of any length.

    Args:
      x: float audio in [-1, 1]: [samples], [samples, channels] or [batch,
        samples, channels].
      rate: sample rate of x in Hz; None: the model's own.
      lengths: valid samples of each item [batch]; None: all.

    Returns:
      (float32 [batch, windows, dim] of norm 1, bool [batch, windows], False
      where a clip has fewer).

    Raises:
      UserError: x has another shape or is not finite.
    """
    return self.features(*self.prepare(x, rate, lengths))
