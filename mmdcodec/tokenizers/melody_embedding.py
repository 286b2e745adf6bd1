"""A melody embedding with its weights: audio in, vectors or codes out.

A clip is heard in windows of 4 s, one every 3 s, so that 10 s give three of
them (MusicLM, arXiv 2301.11325).
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmdcodec import precision
from mmdcodec.models import melody_embedding
from mmdcodec.tokenizers.windowed import Windowed

# From one window to the next, as a share of a window.
STRIDE = 0.75


class Melody(Windowed):
  """A melody embedding with its weights; see `Windowed`."""

  kind = "melody_embedding"
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
    model = melody_embedding.from_config(config["model"])
    hop = max(1, round(STRIDE * model.samples))
    super().__init__(config, variables, model, hop)
    self._apply = jax.jit(precision.exactly(self.model.apply))

  def embed_windows(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Embeds windows, float32 [windows, dim] of norm 1; see `Windowed`."""
    return np.asarray(self._apply(self.variables, x, lengths))

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
