"""The interface of a tokenizer: audio in, integer codes out.

Token data sets, language models, generation and evaluation use tokenizers only
through this interface. To add one, subclass `Tokenizer`, set its attributes
and implement `encode`:

  class Loudness(Tokenizer):
    kind, hash = "loudness", "v1"
    rate, channels, frame_rate, codebook_sizes = 8000, 1, 10.0, (16,)

    def encode(self, x, rate=None, *, lengths=None):
      x, lengths = self.prepare(x, rate, lengths)
      ...

Subclass `AudioCodec` if the codes can also be turned back into audio.
"""

import abc
import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from mmdcodec import formatting
from mmdcodec.tokenizers import validation


class Tokenizer(abc.ABC):
  """Turns audio into rows of integer codes, in time order.

  Attributes:
    kind: kind of code: "codec", "semantic", ...
    hash: identifies weights and settings; equal hashes mean equal codes.
    rate: sample rate of the input in Hz.
    channels: number of input channels.
    frame_rate: rows of codes per second; row i begins at i / frame_rate.
    window: seconds of audio that a row describes, if rows overlap, as in an
      embedding of long windows; None if they do not overlap.
    codebook_sizes: number of codes in each codebook.
  """

  kind: str
  hash: str
  rate: int
  channels: int
  frame_rate: float
  codebook_sizes: tuple[int, ...]
  window: float | None = None

  @abc.abstractmethod
  def encode(
    self, x: Any, rate: int | None = None, *, lengths: Any = None
  ) -> np.ndarray:
    """Turns audio into codes; thread-safe.

    The codes of a clip do not depend on the rest of the batch.

    Args:
      x: float audio in [-1, 1]: [samples], [samples, channels] or [batch,
        samples, channels].
      rate: sample rate of x in Hz; None: the tokenizer's own.
      lengths: valid samples of each item [batch]; None: all.

    Returns:
      int32 [batch, frames, codebooks]; an item of n samples at the
      tokenizer's rate has `frames_of(n)` valid rows.

    Raises:
      UserError: x has another shape or is not finite.
    """

  def __repr__(self) -> str:
    """Rate, frame rate and codebooks."""
    return (
      f"<{type(self).__name__}: {self.rate} Hz,"
      f" {formatting.channels(self.channels)}; {self.frame_rate:g} frames a"
      f" second of {formatting.count(self.codebooks, 'code', 'codes')}, each of"
      f" {self.codebook_size}>"
    )

  @property
  def codebooks(self) -> int:
    """Number of codes in a row."""
    return len(self.codebook_sizes)

  @property
  def codebook_size(self) -> int:
    """Size of the largest codebook."""
    return max(self.codebook_sizes, default=0)

  def frames_of(self, samples: int) -> int:
    """Returns the number of rows for `samples` samples at its own rate."""
    # Frame rates are not exact in binary: a whole frame is no more than one.
    return math.ceil(samples * self.frame_rate / self.rate - 1e-6)

  def on(self, device: jax.Device) -> "Tokenizer":
    """Returns a copy that runs on `device`; by default, the same object."""
    del device
    return self

  def check_codes_suffice(self) -> None:  # noqa: B027
    """Raises UserError if a language model needs more than the codes."""

  def prepare(
    self, x: Any, rate: int | None = None, lengths: Any = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Converts the arguments of `encode` to the tokenizer's rate and channels.

    Returns:
      (float32 [batch, samples, channels], int32 [batch] valid samples).

    Raises:
      UserError: x has another shape or is not finite.
    """
    return validation.audio_batch(
      x, rate, lengths, to=self.rate, channels=self.channels
    )


class AudioCodec(Tokenizer):
  """A tokenizer that can also decode its codes to audio.

  Attributes:
    stride: samples per frame.
  """

  kind = "codec"
  stride: int

  @abc.abstractmethod
  def encode(
    self,
    x: Any,
    rate: int | None = None,
    *,
    codebooks: int | None = None,
    lengths: Any = None,
  ) -> np.ndarray:
    """Turns audio into codes; see `Tokenizer.encode`.

    Args:
      x: float audio.
      rate: sample rate of x in Hz; None: the codec's own.
      codebooks: number of codebooks to use, from the first; None: all.
      lengths: valid samples of each item [batch]; None: all.
    """

  @abc.abstractmethod
  def decode(self, codes: Any, *, length: int | None = None) -> np.ndarray:
    """Turns codes into audio.

    Args:
      codes: int [batch, frames, k] or [frames, k]; the first k codebooks.
      length: number of samples to return; None: those of all frames.

    Returns:
      float32 [batch, samples, channels].

    Raises:
      UserError: the codes do not fit this codec.
    """

  def decode_parts(
    self, parts: Iterable[np.ndarray], size: int
  ) -> Iterator[np.ndarray]:
    """Decodes codes that arrive in parts, as early as possible.

    Args:
      parts: int32 [batch, any number of frames, codebooks].
      size: minimum number of frames to decode at a time.

    Yields:
      float32 [batch, samples, channels]; concatenated, they equal the output
      of `decode` for all codes. The default yields everything at the end.
    """
    del size
    yield self.decode(np.concatenate(list(parts), axis=1))

  @property
  def base(self) -> "AudioCodec":
    """This codec, or the mono codec that it applies to each channel."""
    return self
