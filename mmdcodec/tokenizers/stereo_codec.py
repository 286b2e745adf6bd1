"""A mono codec on two channels: left and right, each by itself.

The codecs of MusicGen are mono. Its stereo models speak of left and right in
turns: of codebook k the left code, then the right one, 2 K codebooks in all
(Copet et al. 2023, arXiv 2306.05284; audiocraft's interleaved codec).
"""

import hashlib
from typing import Any

import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.tokenizers.loaded_codec import LoadedCodec

SIDES = 2
# Of a codec's config.json: it is used so.
FLAG = "stereo"
_WHOLE = (
  "this codec takes two channels as whole clips; for audio in pieces use the"
  " codec of either side, `codec.mono`."
)


def split_codes(codes: np.ndarray) -> np.ndarray:
  """int32 [batch, frames, 2 K] -> [2 batch, frames, K], left, right of each."""
  batch, frames, _ = codes.shape
  sides = codes.reshape(batch, frames, -1, SIDES)
  return np.moveaxis(sides, -1, 1).reshape(SIDES * batch, frames, -1)


def join_codes(codes: np.ndarray) -> np.ndarray:
  """Undoes `split_codes`."""
  rows, frames, books = codes.shape
  sides = codes.reshape(rows // SIDES, SIDES, frames, books)
  return np.moveaxis(sides, 1, -1).reshape(-1, frames, SIDES * books)


def split_audio(x: np.ndarray) -> np.ndarray:
  """[batch, samples, 2] -> [2 batch, samples, 1], left and right of each."""
  return np.moveaxis(x, -1, 1).reshape(-1, x.shape[1], 1)


def join_audio(x: np.ndarray) -> np.ndarray:
  """Undoes `split_audio`."""
  return np.moveaxis(x.reshape(-1, SIDES, x.shape[1]), 1, -1)


class StereoCodec:
  """Two channels through one mono codec, as a language model hears them.

  Attributes:
    mono: the `LoadedCodec` of either side.
    config: of it, with the flag that says so.
    model: the Linen module of the mono codec.
    rate: Hz. channels: 2. frame_rate: code frames per second.
    codebooks: of both sides together. hash: names weights and arrangement.
  """

  def __init__(self, mono: LoadedCodec):
    """Takes a codec of one channel."""
    if mono.channels != 1:
      raise ValueError(f"the codec of a side has {mono.channels} channels")
    self.mono = mono
    self.config = {**mono.config, FLAG: True}
    self.model, self.rate = mono.model, mono.rate
    self.channels, self.frame_rate = SIDES, mono.frame_rate
    self.codebooks = SIDES * mono.codebooks
    digest = hashlib.sha256(f"{FLAG} {mono.hash}".encode())
    self.hash = digest.hexdigest()[:16]

  @property
  def variables(self) -> dict:
    """Parameters and codebooks of the mono codec."""
    return self.mono.variables

  def on(self, device) -> "StereoCodec":
    """The same with its weights on a device; see `LoadedCodec.on`."""
    return StereoCodec(self.mono.on(device))

  def encode(
    self,
    x,
    rate: int | None = None,
    *,
    codebooks: int | None = None,
    lengths=None,
  ) -> np.ndarray:
    """Turns audio into codes.

    Args:
      x: see `LoadedCodec.encode`; one channel stands on both sides.
      rate: see there.
      codebooks: use only the first so many, an even number.
      lengths: see there.

    Returns:
      NumPy int32 codes [batch, frames, codebooks].

    Raises:
      UserError: see there.
    """
    if codebooks is not None:
      _check_even(codebooks)
      codebooks //= SIDES
    x, lengths = self.mono.prepare(x, rate, lengths, channels=SIDES)
    codes = self.mono.encode(
      split_audio(x), codebooks=codebooks, lengths=np.repeat(lengths, SIDES)
    )
    return join_codes(codes)

  def decode(self, codes, *, length: int | None = None) -> np.ndarray:
    """Turns codes into audio.

    Args:
      codes: [batch, frames, codebooks] or [frames, codebooks]; fewer codebooks,
        an even number, give a coarser sound.
      length: samples to return; all of the frames by default.

    Returns:
      NumPy float32 audio [batch, samples, 2].

    Raises:
      UserError: see `LoadedCodec.decode`.
    """
    codes = np.asarray(codes)
    codes = codes[None] if codes.ndim == 2 else codes
    if codes.ndim != 3 or not codes.size:
      raise UserError(
        f"codes have shape {codes.shape}; expected [frames, codebooks] or"
        " [batch, frames, codebooks], and at least one frame."
      )
    _check_even(codes.shape[-1])
    return join_audio(self.mono.decode(split_codes(codes), length=length))

  def streamer(self, *args, **options):
    """Not for two channels.

    Raises:
      UserError: always; says what to use.
    """
    raise UserError(_WHOLE)

  def encode_blocks(self, *args, **options):
    """As `streamer`."""
    raise UserError(_WHOLE)

  def decode_blocks(self, *args, **options):
    """As `streamer`."""
    raise UserError(_WHOLE)


def _check_even(codebooks: int) -> None:
  if codebooks % SIDES:
    raise UserError(
      f"there are {codebooks} codebooks; left and right take turns, so it must"
      " be an even number."
    )


def open_codec(
  config: dict, variables: dict, assets: Any = None
) -> LoadedCodec | StereoCodec:
  """A codec with its weights, as its config says that it is used.

  Args:
    config: see `LoadedCodec`; with `stereo`, of a codec for two channels.
    variables: see there.
    assets: see there.
  """
  codec = LoadedCodec(config, variables, assets)
  return StereoCodec(codec) if config.get(FLAG) else codec
