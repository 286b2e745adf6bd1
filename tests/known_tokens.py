"""Token data sets of several tokenizers for the same audio, of known codes."""

import zlib

import numpy as np
import soundfile

from mmdcodec.data import records, tokenization
from mmdcodec.tokenizers.interface import Tokenizer

RATE = 8000


class Known(Tokenizer):
  """A tokenizer whose codes depend on the song and its own name alone.

  Args:
    kind: its kind.
    frame_rate: of its codes, in Hz.
    sizes: of its codebooks.
    name: its hash.
    window: seconds that a row describes, or None.
    hold: frames that a code lasts.
  """

  rate, channels = RATE, 1

  def __init__(self, kind, frame_rate, sizes, name="a", window=None, hold=1):
    self.kind, self.frame_rate, self.hash = kind, frame_rate, f"{kind}-{name}"
    self.codebook_sizes, self.window, self._hold = sizes, window, hold

  def codes_of(self, song, frames):
    """Codes [frames, codebooks] of a song by its number."""
    seed = [song, zlib.crc32(self.hash.encode())]
    shape = (frames, self.codebooks)
    codes = np.random.default_rng(seed).integers(0, 1 << 30, shape)
    return np.repeat(codes, self._hold, 0)[:frames] % self.codebook_sizes

  def encode(self, x, rate=None, *, lengths=None):
    """Reads the number of the song off its samples."""
    songs = np.rint(x[:, 0, 0] * 32768).astype(int)
    frames = self.frames_of(x.shape[1])
    return np.stack([self.codes_of(song, frames) for song in songs])


def songs(folder, count=3, seconds=4.0):
  """An audio data set of songs 1, 2, ..., which tell their numbers."""
  (folder / "in").mkdir(parents=True)
  for i in range(1, count + 1):
    x = np.full(round(seconds * RATE), i, np.int16)
    soundfile.write(folder / "in" / f"{i:02}.wav", x, RATE)
  records.prepare(
    folder / "in", folder / "audio", rate=RATE, seconds=seconds, progress=False
  )
  return folder / "audio"


def write(audio, folder, *tokenizers):
  """Data sets of several tokenizers in one folder; returns their paths."""
  tokenization.tokenize_all(audio, folder, tokenizers)
  return {each.kind: str(folder / each.kind) for each in tokenizers}
