"""The semantic tokenizer: codes of what happens in music, 25 a second.

MusicLM, arXiv 2301.11325, 4.1: the features of one block of a trained
`mmdcodec.models.semantic`, coded by k-means. Public networks can take its place
(`mmdcodec.models.semantic_networks`); some of them have 50 or 75 frames a
second.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmdcodec import precision
from mmdcodec.models import semantic_networks
from mmdcodec.nn.conv import frames
from mmdcodec.platform import bucket
from mmdcodec.tokenizers import long_features
from mmdcodec.tokenizers.clustered import CODEBOOK, Clustered

# Longer clips are cut into windows of this length. Neighbours overlap, so that
# every frame hears at least EDGE_SECONDS on both sides.
WINDOW_SECONDS, EDGE_SECONDS = 30.0, 5.0
# Frames that the network gets at a time, at most, in several windows. Attention
# takes memory for each of their pairs.
FRAMES = 4096


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
      config: config of a bundle; `model` holds the fields of the network, and
        its name.
      variables: its parameters and other collections.
      assets: other files of a bundle; ignored.

    Raises:
      UserError: a field is invalid, or the codebook does not fit.
    """
    del assets
    super().__init__(config, variables)
    self.model = precision.in_float32(
      semantic_networks.from_config(config["model"])
    )
    self.rate, self.channels = self.model.rate, 1
    self.stride = self.model.stride
    self.frame_rate = self.rate / self.stride
    self._features = jax.jit(
      precision.exactly(
        lambda variables, x, lengths: self.model.apply(
          variables, x, lengths, method="features"
        )
      )
    )

  def frames_of(self, samples: int) -> int:
    """Returns the number of frames for `samples` samples.

    Some public networks have a frame less than `frame_rate` says, because all
    of a frame must lie within the clip. A clip that is too short for a frame
    has one all the same, as if silence followed it.
    """
    if samples <= 0:
      return 0
    return self.model.frames_of(max(samples, self.model.shortest))

  def features(
    self, x: np.ndarray, lengths: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Computes the vectors of each frame; see `Clustered.features`.

    Clips of up to `WINDOW_SECONDS` are heard as a whole.
    """
    x, lengths = np.asarray(x), np.asarray(lengths)
    valid = np.array([self.frames_of(int(n)) for n in lengths])
    lengths = np.maximum(lengths, self.model.shortest)
    missing = max(0, self.model.shortest - x.shape[1])
    x = np.pad(x, ((0, 0), (0, missing), (0, 0)))
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
        batch=max(1, min(long_features.BATCH, FRAMES // span)),
      )
      found[at, : rows.shape[1]] = rows
    found = found[:, : valid.max()]
    return found, np.arange(found.shape[1]) < valid[:, None]
