"""The codes of one piece of audio in memory."""

import dataclasses
from typing import IO

import numpy as np

from mmdcodec.bitstream.header import frame_rate
from mmdcodec.bitstream.packing import code_bits


def name_of(file: IO[bytes]) -> str:
  """Returns the name of an open file for messages."""
  name = getattr(file, "name", None)
  return name if isinstance(name, str) else "the stream"


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
  """The codes of one piece of audio, and the settings to decode them.

  Attributes:
    codes: int32 [frames, codebooks].
    samples: length of the audio, in samples per channel at `rate`.
    rate: sample rate of the codec in Hz.
    channels: channels of the audio.
    codebook_size: entries in each codebook.
    stride: samples per frame.
    model: 16 hex digits that identify the weights that made the codes
      (`mmdcodec.tokenizers.loaded_codec.fingerprint`).
    scale: float32 [scales], gains of a normalising codec: one for the whole
      clip, or one per segment. None for other codecs.
    segment_frames: frames that share one scale in a codec that works in
      overlapping segments; otherwise 0.
    segment_hop: samples from one such segment to the next; otherwise 0.
    lost: (first, end) of ranges of frames that were damaged in the file and
      are filled in.
  """

  codes: np.ndarray
  samples: int
  rate: int
  channels: int
  codebook_size: int
  stride: int
  model: str = "0" * 16
  scale: np.ndarray | None = None
  segment_frames: int = 0
  segment_hop: int = 0
  lost: tuple[tuple[int, int], ...] = ()

  @property
  def frame_rate(self) -> float:
    """Frames per second of audio, as `Header.frame_rate`."""
    return frame_rate(
      self.rate, self.stride, self.segment_frames, self.segment_hop
    )

  @property
  def seconds(self) -> float:
    """Duration of the audio in seconds."""
    return self.samples / self.rate

  @property
  def codebooks(self) -> int:
    """Codes per frame."""
    return self.codes.shape[1]

  @property
  def bits_per_second(self) -> float:
    """Bits of packed codes per second of audio (no header, no scales)."""
    if not self.samples:
      return 0.0
    return self.codes.size * code_bits(self.codebook_size) / self.seconds
