"""A mono codec applied to left and right separately.

The codecs of MusicGen are mono. Its stereo models interleave the channels: for
each of K codebooks, the left code comes before the right one, 2 K in all (Copet
et al. 2023, arXiv 2306.05284; audiocraft's interleaved codec).
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.tokenizers.interface import AudioCodec
from mmdcodec.tokenizers.loaded_codec import LoadedCodec

SIDES = 2
# Key in a codec's config.json that selects this arrangement.
FLAG = "stereo"
_WHOLE = (
  "this codec takes stereo clips as a whole; for audio in pieces use the codec"
  " of either channel, `codec.mono`."
)


def split_codes(codes: np.ndarray) -> np.ndarray:
  """int32 [batch, frames, 2 K] -> [2 batch, frames, K], left before right."""
  batch, frames, books = codes.shape
  sides = codes.reshape(batch, frames, books // SIDES, SIDES)
  sides = np.moveaxis(sides, -1, 1)
  return sides.reshape(SIDES * batch, frames, books // SIDES)


def join_codes(codes: np.ndarray) -> np.ndarray:
  """Undoes `split_codes`."""
  rows, frames, books = codes.shape
  sides = codes.reshape(rows // SIDES, SIDES, frames, books)
  return np.moveaxis(sides, 1, -1).reshape(-1, frames, SIDES * books)


def split_audio(x: np.ndarray) -> np.ndarray:
  """[batch, samples, 2] -> [2 batch, samples, 1], left before right."""
  return np.moveaxis(x, -1, 1).reshape(-1, x.shape[1], 1)


def join_audio(x: np.ndarray) -> np.ndarray:
  """Undoes `split_audio`."""
  return np.moveaxis(x.reshape(-1, SIDES, x.shape[1]), 1, -1)


class StereoCodec(AudioCodec):
  """Two channels through one mono codec; see `AudioCodec` for more attributes.

  Attributes:
    mono: the `LoadedCodec` for each channel.
    config: the mono codec's config with the key FLAG added.
    model: the Linen module of the mono codec.
    hash: identifies weights and arrangement.
  """

  channels = SIDES

  def __init__(self, mono: LoadedCodec):
    """Takes a codec of one channel."""
    if mono.channels != 1:
      raise ValueError(f"the codec of a side has {mono.channels} channels")
    self.mono = mono
    self.config = {**mono.config, FLAG: True}
    self.model, self.rate = mono.model, mono.rate
    self.stride, self.frame_rate = mono.stride, mono.frame_rate
    self.codebook_sizes = tuple(np.repeat(mono.codebook_sizes, SIDES).tolist())
    digest = hashlib.sha256(f"{FLAG} {mono.hash}".encode())
    self.hash = digest.hexdigest()[:16]

  @property
  def variables(self) -> dict:
    """The parameters and codebooks of the mono codec."""
    return self.mono.variables

  @property
  def base(self) -> LoadedCodec:
    """The mono codec."""
    return self.mono

  def on(self, device: jax.Device) -> "StereoCodec":
    """Returns the same codec with its weights on `device`."""
    return StereoCodec(self.mono.on(device))

  def encode(
    self,
    x: Any,
    rate: int | None = None,
    *,
    codebooks: int | None = None,
    lengths: Any = None,
  ) -> np.ndarray:
    """Turns audio into codes; see `AudioCodec.encode`.

    Mono audio is copied to both channels. `codebooks` must be even because left
    and right alternate.
    """
    if codebooks is not None:
      _check_even(codebooks)
      codebooks //= SIDES
    x, lengths = self.prepare(x, rate, lengths)
    codes = self.mono.encode(
      split_audio(x), codebooks=codebooks, lengths=np.repeat(lengths, SIDES)
    )
    return join_codes(codes)

  def frames_of(self, samples: int) -> int:
    """Returns the number of frames for `samples` samples."""
    return self.mono.frames_of(samples)

  def check_codes_suffice(self) -> None:
    """Raises UserError if a language model needs more than the codes."""
    self.mono.check_codes_suffice()

  def decode(self, codes: Any, *, length: int | None = None) -> np.ndarray:
    """Decodes an even number of codebooks; see `AudioCodec.decode`."""
    codes = np.asarray(codes)
    codes = codes[None] if codes.ndim == 2 else codes
    if codes.ndim != 3 or not codes.size:
      raise UserError(
        f"codes have shape {codes.shape}; expected [frames, codebooks] or"
        " [batch, frames, codebooks], and at least one frame."
      )
    _check_even(codes.shape[-1])
    return join_audio(self.mono.decode(split_codes(codes), length=length))

  def decode_parts(
    self, parts: Iterable[np.ndarray], size: int
  ) -> Iterator[np.ndarray]:
    """Decodes codes that arrive in parts; see `AudioCodec`."""
    for x in self.mono.decode_parts(map(split_codes, parts), size):
      yield join_audio(x)

  def streamer(self, *args: Any, **options: Any) -> NoReturn:
    """Is not available for stereo.

    Raises:
      UserError: always; the message names the alternative.
    """
    raise UserError(_WHOLE)

  encode_blocks = decode_blocks = streamer


def _check_even(codebooks: int) -> None:
  if codebooks % SIDES:
    raise UserError(
      f"there are {codebooks} codebooks; left and right alternate, so expected"
      " an even number."
    )


def open_codec(
  config: dict, variables: dict, assets: Any = None
) -> LoadedCodec | StereoCodec:
  """Builds a `LoadedCodec`, or a `StereoCodec` if the config has `stereo`.

  Args:
    config: see `LoadedCodec`.
    variables: `{"params": ..., "codebook": ...}`.
    assets: other files of a bundle; ignored.
  """
  codec = LoadedCodec(config, variables, assets)
  return StereoCodec(codec) if config.get(FLAG) else codec
