"""A tokenizer of a user's own whose codebooks `mmdcodec cluster` fits."""

import numpy as np

from mmdcodec.tokenizers.clustered import Clustered


class Shape(Clustered):
  """Mean, size and a constant of each tenth of a second, times a weight."""

  kind, rate, channels, frame_rate = "shape", 1000, 1, 10.0
  usual_levels, usual_codes = 2, 16

  def features(self, x, lengths):
    """See the base class."""
    hop = round(self.rate / self.frame_rate)
    frames = self.frames_of(x.shape[1])
    x = np.pad(x[..., 0], ((0, 0), (0, frames * hop - x.shape[1])))
    x = x.reshape(len(x), frames, hop)
    size = np.log10(np.square(x).mean(-1) + 1e-4)
    rows = np.stack([x.mean(-1), size, np.full(size.shape, 3.0)], -1)
    valid = np.arange(frames) * hop < lengths[:, None]
    return rows * np.asarray(self.variables["params"]["weight"]), valid
