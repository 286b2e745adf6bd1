"""A tokenizer of a user's own: how loud the music is, 40 times a second."""

import numpy as np

from mmdcodec.tokenizers.interface import Tokenizer


class Loudness(Tokenizer):
  """Sixteen steps of so many dB, the highest for full scale."""

  kind, rate, channels = "loudness", 8000, 1
  frame_rate, codebook_sizes = 40.0, (16,)

  def __init__(self, config, variables, assets):
    """Opens a bundle."""
    self.step = config["model"]["step"]
    self.hash = f"{self.step} dB"

  def encode(self, x, rate=None, *, lengths=None):
    """See the base class."""
    x, lengths = self.prepare(x, rate, lengths)
    hop = round(self.rate / self.frame_rate)
    frames = self.frames_of(x.shape[1])
    x = np.pad(x, ((0, 0), (0, frames * hop - x.shape[1]), (0, 0)))
    power = np.square(x).reshape(len(x), frames, hop).mean(2)
    level = 16 + 10 * np.log10(power + 1e-10) // self.step
    return np.clip(level, 0, 15)[..., None].astype(np.int32)
