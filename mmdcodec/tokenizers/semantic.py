"""The semantic tokenizer: codes of what happens in music, 25 a second.

MusicLM, arXiv 2301.11325, 4.1: the features of one block of a trained
`mmdcodec.models.semantic`, coded by k-means.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmdcodec.models import semantic
from mmdcodec.nn.conv import frames
from mmdcodec.platform import bucket
from mmdcodec.tokenizers import long_features
from mmdcodec.tokenizers.clustered import CODEBOOK, Clustered

# Longer clips are cut into windows of this length. Neighbours overlap, so that
# every frame hears at least EDGE_SECONDS on both sides.
WINDOW_SECONDS, EDGE_SECONDS = 30.0, 5.0


class SemanticTokenizer(Clustered):
  """A semantic network with its weights, and perhaps its codebook.

  Attributes:
    model: the Linen module. For the other attributes see `Clustered`.
  """

  kind = "semantic"

  def __init__(
    self,
    config: dict[str, Any],
    variables: Mapping[str, Any],
    assets: Any = None,
  ):
    """Builds the tokenizer.

    Args:
      config: config of a bundle; `model` holds the fields of `SemanticModel`.
      variables: its parameters and other collections.
      assets: other files of a bundle; ignored.

    Raises:
      UserError: a field is invalid, or the codebook does not fit.
    """
    del assets
    super().__init__(config, variables)
    self.model = semantic.from_config(config["model"])
    self.rate, self.channels = self.model.rate, 1
    self.stride, self.frame_rate = self.model.stride, self.model.frame_rate
    self._features = jax.jit(
      lambda variables, x, lengths: self.model.apply(
        variables, x, lengths, method="features"
      )
    )

  def frames_of(self, samples: int) -> int:
    """Returns the number of frames for `samples` samples."""
    return frames(samples, self.stride)

  def features(
    self, x: np.ndarray, lengths: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Computes the vectors of each frame; see `Clustered.features`.

    Clips of up to `WINDOW_SECONDS` are heard as a whole.
    """
    x, lengths = np.asarray(x), np.asarray(lengths)
    counts = frames(lengths, self.stride)
    found = np.zeros((len(x), counts.max(), self.model.width), np.float32)
    longest = max(1, round(WINDOW_SECONDS * self.frame_rate))
    # How long the network's input is depends on a clip's own length alone.
    spans = np.array([min(bucket(int(n)), longest) for n in counts])
    network = {k: v for k, v in self.variables.items() if k != CODEBOOK}
    for span in sorted({*spans.tolist()}):
      at = np.flatnonzero(spans == span)
      rows, _ = long_features.of_frames(
        lambda x, lengths: self._features(network, x, lengths),
        x[at],
        lengths[at],
        stride=self.stride,
        span=span,
        edge=min(round(EDGE_SECONDS * self.frame_rate), (span - 1) // 2),
      )
      found[at, : rows.shape[1]] = rows
    return found, np.arange(counts.max()) < counts[:, None]
