"""SEANet: encoder and decoder of the codecs.

One network covers two published topologies, which differ only in numbers:

  SEANet (EnCodec, arXiv 2210.13438, section 3.1): one residual layer with
    kernels 3 and 1 per block, LSTM over the latents, weight norm.
  SoundStream (arXiv 2107.03312, sections III-A and B): three residual layers
    with kernels 7 and 1 and dilations 1, 3, 9, no LSTM, no norm.

  encoder: conv_in, blocks of residual layers and a strided convolution `down`
    that doubles the channels, lstm (plus its input), conv_out to `dim`;
  decoder: the mirror image with transposed convolutions `up`.

An ELU comes before every convolution except the first of each half, so there is
no activation on the residual path. (The SoundStream paper does not say where
its ELUs are.) Everywhere, `lengths` [batch] are the valid samples or frames of
x; None means all (`mmdcodec.nn.conv`). x may also be a folded signal
(`mmdcodec.nn.folding`).
"""

import dataclasses
import math
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import flag, list_of, number, one_of, whole
from mmdcodec.nn import folding
from mmdcodec.nn.conv import (
  PAD_MODES,
  Conv,
  ConvTranspose,
  frames,
  mask_after,
  streaming,
)
from mmdcodec.nn.lstm import LSTM
from mmdcodec.nn.norms import NORMS


@dataclasses.dataclass(frozen=True)
class Network(bounds.Checked):
  """The fields of `Codec` that encoder and decoder need, documented there."""

  called = "the codec"

  topology: Annotated[str, one_of(("seanet", "soundstream"))]
  channels: Annotated[int, whole(1, 64)]
  causal: Annotated[bool, flag()]
  filters: Annotated[int, whole(1, 1 << 10)]
  ratios: Annotated[tuple[int, ...], list_of(whole(1, 256), 8)]
  dim: Annotated[int, whole(1, 1 << 14)]
  kernel: Annotated[int, whole(1, 255)]
  last_kernel: Annotated[int, whole(1, 255)]
  residual_kernel: Annotated[int, whole(1, 255)]
  dilations: Annotated[tuple[int, ...], list_of(whole(1, 1 << 12), 8)]
  compress: Annotated[int, whole(1, 1 << 10)]
  shortcut: Annotated[str, one_of(("conv", "identity"))]
  lstm_layers: Annotated[int, whole(0, 16)]
  norm: Annotated[str, one_of(NORMS)]
  pad_mode: Annotated[str, one_of(PAD_MODES)]
  trim_right_ratio: Annotated[float, number(0, 1)]
  dtype: Annotated[str, bounds.dtype("float32", "bfloat16")]
  remat: Annotated[bool, flag()]

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if self.compress > self.filters:
      return (
        f"compress is {self.compress}, more than its {self.filters} filters"
      )
    if math.prod(self.ratios) > 1 << 20:
      return f"the product of the ratios {self.ratios} is over 2^20 samples"
    return None

  def folds(self) -> list[int]:
    """Folding factors of the blocks, from the audio to the latents."""
    widths = tuple(self.filters * 2**i for i in range(len(self.ratios)))
    if self.norm == "time_group":
      return [1] * len(widths)
    return folding.wanted_factors(widths, self.ratios[::-1])

  def conv(self, features: int, kernel: int, name: str, **options: Any) -> Conv:
    """A convolution with the common options."""
    return Conv(
      features,
      kernel,
      causal=self.causal,
      pad_mode=self.pad_mode,
      norm=self.norm,
      dtype=jnp.dtype(self.dtype),
      name=name,
      **options,
    )

  def up(self, features: int, ratio: int, name: str) -> ConvTranspose:
    """A transposed convolution with kernel 2 * ratio."""
    return ConvTranspose(
      features,
      2 * ratio,
      ratio,
      causal=self.causal,
      trim_right_ratio=self.trim_right_ratio,
      norm=self.norm,
      dtype=jnp.dtype(self.dtype),
      name=name,
    )

  def lstm(self, width: int) -> LSTM:
    """The LSTM over the latents."""
    return LSTM(width, self.lstm_layers, jnp.dtype(self.dtype))

  @property
  def audio_kernel(self) -> int:
    """Taps of the last convolution of the decoder."""
    # SoundStream has the shorter kernel only at the latents (its figure 3).
    return self.kernel if self.topology == "soundstream" else self.last_kernel


def elu(x: Any) -> Any:
  """ELU of an array or a folded signal.

  It uses exp, because with expm1 it takes 1.5 times as long on a CPU. The error
  near zero, up to 6e-8, is no larger than that of float32 convolutions.
  """

  def one(x: jax.Array) -> jax.Array:
    # In float32, because bfloat16 rounds exp(x) - 1 to 0 near zero.
    below = jnp.where(x > 0, 0, x).astype(jnp.float32)
    return jnp.where(x > 0, x, (jnp.exp(below) - 1).astype(x.dtype))

  return jax.tree.map(one, x)


def _folds(module: nn.Module) -> list[int]:
  """Folding factors in the order of the encoder; all 1 in streaming."""
  network: Network = module.network
  return [1] * len(network.ratios) if streaming(module) else network.folds()


class Residual(nn.Module):
  """x + conv1x1(elu(conv(elu(x)))), or the shortcut convolution of x.

  Attributes:
    network: fields of the codec.
    dilation: dilation of the first convolution.
  """

  network: Network
  dilation: int

  @nn.compact
  def __call__(self, x: Any, lengths: jax.Array | None = None) -> Any:
    """[batch, time, channels] -> the same shape."""
    n, width = self.network, x.shape[-1]
    inner = n.conv(
      width // n.compress, n.residual_kernel, "conv_0", dilation=self.dilation
    )
    y = inner(elu(x), lengths)
    y = n.conv(width, 1, "conv_1")(elu(y), lengths)
    if n.shortcut == "conv":
      x = n.conv(width, 1, "shortcut")(x, lengths)
    return x + y


class Down(nn.Module):
  """Block of the encoder: residual layers, then `down`.

  Attributes:
    network: fields of the codec.
    ratio: stride of `down`.
  """

  network: Network
  ratio: int

  @nn.compact
  def __call__(self, x: Any, lengths: jax.Array | None = None) -> Any:
    """[batch, time, width] -> [batch, ceil(time / ratio), 2 * width]."""
    n, width = self.network, x.shape[-1]
    for i, dilation in enumerate(n.dilations):
      x = Residual(n, dilation, name=f"residual_{i}")(x, lengths)
    down = n.conv(2 * width, 2 * self.ratio, "down", stride=self.ratio)
    return down(elu(x), lengths)


class Up(nn.Module):
  """Block of the decoder: `up`, then residual layers.

  Attributes:
    network: fields of the codec.
    ratio: stride of `up`.
  """

  network: Network
  ratio: int

  @nn.compact
  def __call__(self, x: Any, lengths: jax.Array | None = None) -> Any:
    """[batch, time, width] -> [batch, time * ratio, width / 2]."""
    n, width = self.network, x.shape[-1]
    x = n.up(width // 2, self.ratio, "up")(elu(x), lengths)
    ends = None if lengths is None else lengths * self.ratio
    for i, dilation in enumerate(n.dilations):
      x = Residual(n, dilation, name=f"residual_{i}")(x, ends)
    return x


def _recurrent(
  lstm: LSTM | None, x: jax.Array, lengths: jax.Array | None
) -> jax.Array:
  """LSTM with a skip connection. It is causal, so its input needs no mask."""
  return x if lstm is None else mask_after(x + lstm(x)[0], lengths)


class Encoder(nn.Module):
  """Maps audio to latents, one frame for every prod(ratios) samples.

  It has three parts: `front` before the LSTM, `recurrent`, the LSTM (the
  identity in a network without one), and `back` after it.

  Attributes:
    network: fields of the codec.
  """

  network: Network

  def setup(self) -> None:
    """Builds the layers."""
    n = self.network
    block = nn.remat(Down) if n.remat else Down
    self.conv_in = n.conv(n.filters, n.kernel, "conv_in")
    self.block = [block(n, ratio) for ratio in reversed(n.ratios)]
    width = n.filters * 2 ** len(n.ratios)
    self.lstm = n.lstm(width) if n.lstm_layers else None
    self.conv_out = n.conv(n.dim, n.last_kernel, "conv_out")

  def __call__(
    self, x: jax.Array, lengths: jax.Array | None = None
  ) -> jax.Array:
    """[batch, samples, channels] -> [batch, frames, dim] float32."""
    x = self.front(x, lengths)
    if lengths is not None:
      lengths = frames(lengths, math.prod(self.network.ratios))
    return self.back(self.recurrent(x, lengths), lengths)

  def front(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
    """[batch, samples, channels] -> [batch, frames, width]."""
    folds = _folds(self)
    x = self.conv_in(folding.refold(x, folds[0]), lengths)
    for block, ratio, factor in zip(
      self.block, reversed(self.network.ratios), folds, strict=True
    ):
      x = block(folding.refold(x, factor), lengths)
      lengths = None if lengths is None else frames(lengths, ratio)
    return folding.unfold(x)

  def recurrent(
    self, x: jax.Array, lengths: jax.Array | None = None
  ) -> jax.Array:
    """[batch, frames, width] -> the same shape."""
    return _recurrent(self.lstm, x, lengths)

  def back(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
    """[batch, frames, width] -> [batch, frames, dim] float32."""
    return self.conv_out(elu(x), lengths).astype(jnp.float32)


class Decoder(nn.Module):
  """Maps latents to audio, in three parts like `Encoder`.

  Attributes:
    network: fields of the codec.
  """

  network: Network

  def setup(self) -> None:
    """Builds the layers."""
    n = self.network
    block = nn.remat(Up) if n.remat else Up
    width = n.filters * 2 ** len(n.ratios)
    self.conv_in = n.conv(width, n.kernel, "conv_in")
    self.lstm = n.lstm(width) if n.lstm_layers else None
    self.block = [block(n, ratio) for ratio in n.ratios]
    self.conv_out = n.conv(n.channels, n.audio_kernel, "conv_out")

  def __call__(
    self, z: jax.Array, lengths: jax.Array | None = None
  ) -> jax.Array:
    """[batch, frames, dim] -> [batch, frames * stride, channels] float32."""
    x = self.recurrent(self.front(z, lengths), lengths)
    return self.back(x, lengths)

  def front(self, z: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
    """[batch, frames, dim] -> [batch, frames, width]."""
    return self.conv_in(z, lengths)

  def recurrent(
    self, x: jax.Array, lengths: jax.Array | None = None
  ) -> jax.Array:
    """[batch, frames, width] -> the same shape."""
    return _recurrent(self.lstm, x, lengths)

  def back(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
    """[batch, frames, width] -> [batch, frames * stride, channels] float32."""
    for block, ratio, factor in zip(
      self.block, self.network.ratios, reversed(_folds(self)), strict=True
    ):
      # A transposed convolution of stride s multiplies the folding factor by s.
      x = folding.unfold(x) if factor == 1 else folding.fold(x, factor // ratio)
      x = block(x, lengths)
      lengths = None if lengths is None else lengths * ratio
    return folding.unfold(self.conv_out(elu(x), lengths)).astype(jnp.float32)
