"""The fields of a codec, and what follows from them without any array."""

import dataclasses
import math
from typing import Annotated, Any

import flax.linen as nn

from mmdcodec import bounds
from mmdcodec.bounds import flag, number, one_of, whole
from mmdcodec.models.seanet import Network
from mmdcodec.models.spectral_networks import SpectralNetwork
from mmdcodec.nn.conv import frames
from mmdcodec.quantize.residual import (
  MOST_CODEBOOKS,
  MOST_CODES,
  ResidualVectorQuantizer,
)

TOPOLOGIES = ("seanet", "soundstream", "spectral")


class CodecFields(bounds.Checked, nn.Module):
  """The fields of `Codec`; the defaults are those of a 24 kHz EnCodec.

  Attributes:
    topology: "seanet", "soundstream" or "spectral". A SoundStream ends in
      `kernel` instead of `last_kernel` on the audio side.
    rate: samples per second.
    channels: number of audio channels.
    causal: no output depends on later input (except within one frame; in a
      spectral codec, encoder and decoder look half a frame further).
    ratios: strides in the order of the decoder; the encoder reverses them. A
      spectral codec uses only their product.
    dim: width of the latents.
    kernel: taps of the first convolution of encoder and decoder; in a spectral
      codec, of every depthwise convolution.
    filters: channels after the first convolution, doubled by every block. This
      and all to `trim_right_ratio` are not of spectral codecs.
    last_kernel: taps of their last convolutions.
    residual_kernel: taps in the residual layers.
    dilations: one for each residual layer of a block.
    compress: factor by which residual layers narrow their channels.
    shortcut: "conv" or "identity" around the residual layers.
    lstm_layers: LSTM layers over the latents in encoder and decoder, or 0.
    norm: "none", "weight" or "time_group".
    pad_mode: "constant" or "reflect".
    trim_right_ratio: as in `ConvTranspose`.
    width: channels of the blocks. This and all to `phase_iterations` are of
      spectral codecs alone.
    expansion: width inside the blocks, in widths of the blocks.
    encoder_blocks: ConvNeXt blocks of the encoder.
    decoder_blocks: those of the decoder.
    compression: exponent of the magnitudes that the encoder sees.
    phase_iterations: 0 means that the codes hold phases too; otherwise the
      decoder finds them with so many iterations of `nn.griffin_lim`.
    normalize: divide the input by its loudness (`Encoded.scale`).
    chunk_seconds: `encode` and `decode` work in chunks of this length; 0 means
      whole clips. Training never cuts its crops into chunks.
    overlap: overlap of the chunks, as a fraction.
    codebooks: levels of the quantizer.
    codebook_size: codes per level.
    decay: decay of the codebook statistics; this and the next four are options
      of `ResidualVectorQuantizer`.
    epsilon: Laplace smoothing of the code counts.
    threshold: usage below which a code is dead and is replaced.
    threshold_kind: "relative" to uniform usage or "absolute".
    kmeans_iterations: k-means iterations that initialise the codebooks.
    quantizer_dropout: share of examples trained with a random number of
      codebooks.
    dtype: compute dtype of encoder and decoder, "float32" or "bfloat16".
      Parameters, norms, latents, quantizer and audio are float32.
    remat: recompute blocks in the backward pass to save memory.
  """

  called = "the codec"

  # The networks and the quantizer have the bounds of their own fields.
  topology: Annotated[str, one_of(TOPOLOGIES)] = "seanet"
  rate: Annotated[int, whole(1, 1_000_000)] = 24000
  channels: int = 1
  causal: bool = True
  filters: int = 32
  ratios: tuple[int, ...] = (8, 5, 4, 2)
  dim: int = 128
  kernel: int = 7
  last_kernel: int = 7
  residual_kernel: int = 3
  dilations: tuple[int, ...] = (1,)
  compress: int = 2
  shortcut: str = "conv"
  lstm_layers: int = 2
  norm: str = "weight"
  pad_mode: str = "reflect"
  trim_right_ratio: float = 1.0
  width: int = 192
  expansion: int = 3
  encoder_blocks: int = 3
  decoder_blocks: int = 4
  compression: float = 0.3
  phase_iterations: int = 0
  normalize: Annotated[bool, flag()] = False
  chunk_seconds: Annotated[float, number(0, 3600)] = 0.0
  overlap: Annotated[float, number(0, 0.99)] = 0.01
  codebooks: Annotated[int, whole(1, MOST_CODEBOOKS)] = 32
  codebook_size: Annotated[int, whole(2, MOST_CODES)] = 1024
  decay: float = 0.99
  epsilon: float = 1e-5
  threshold: float = 0.1
  threshold_kind: str = "relative"
  kmeans_iterations: int = 10
  quantizer_dropout: Annotated[float, number(0, 1)] = 0.0
  dtype: str = "float32"
  remat: bool = False

  @property
  def problem(self) -> str | None:
    """See the base class."""
    # Their own checks come first.
    ResidualVectorQuantizer(**self.quantizer_fields, parent=None)
    stride = math.prod(self.network.ratios)
    if self.chunk_seconds and self.chunk_seconds * self.rate < stride:
      return f"chunk_seconds is {self.chunk_seconds}, less than one frame"
    return None

  @property
  def quantizer_fields(self) -> dict[str, Any]:
    """The fields of the quantizer."""
    renamed = {"size": "codebook_size", "dropout": "quantizer_dropout"}
    names = bounds.declared(ResidualVectorQuantizer)
    return {name: getattr(self, renamed.get(name, name)) for name in names}

  @property
  def network(self) -> Network | SpectralNetwork:
    """The fields of encoder and decoder."""
    kind = network_kind(self.topology)
    names = [f.name for f in dataclasses.fields(kind)]
    return kind(**{name: getattr(self, name) for name in names})

  @property
  def stride(self) -> int:
    """Samples per frame."""
    return math.prod(self.ratios)

  @property
  def frame_rate(self) -> float:
    """Frames per second."""
    return self.rate / self.stride

  @property
  def chunk(self) -> tuple[int, int] | None:
    """Samples of a chunk, and from chunk to chunk; None without chunks."""
    if not self.chunk_seconds:
      return None
    size = int(self.chunk_seconds * self.rate)
    return size, max(1, int((1 - self.overlap) * size))

  @property
  def frames_per_chunk(self) -> int:
    """Frames of a whole chunk; 0 without chunks."""
    return 0 if self.chunk is None else frames(self.chunk[0], self.stride)

  def samples_of(self, count: int) -> int:
    """Maximum number of samples in `count` frames.

    With chunks, an overlap has frames in both chunks but counts once.
    """
    per_chunk = self.frames_per_chunk
    if self.chunk is None or count <= per_chunk:
      return count * self.stride
    full = frames(count, per_chunk) - 1
    rest = count - full * per_chunk
    return full * self.chunk[1] + rest * self.stride

  def bits_per_second(self, codebooks: int | None = None) -> float:
    """Bit rate of the codes without entropy coding."""
    books = self.codebooks if codebooks is None else codebooks
    return self.frame_rate * books * math.log2(self.codebook_size)


def network_kind(topology: str) -> type[Network] | type[SpectralNetwork]:
  """The class of the fields of encoder and decoder."""
  return SpectralNetwork if topology == "spectral" else Network
