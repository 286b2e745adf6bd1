"""Encoder and decoder of the codecs.

One network for two published topologies, which differ in numbers only:

  SEANet (EnCodec, arXiv 2210.13438, section 3.1): one residual layer with
    kernels 3 and 1 per block, LSTM over the latents, weight norm.
  SoundStream (arXiv 2107.03312, sections III-A and B): three residual layers
    with kernels 7 and 1 and dilations 1, 3, 9, no LSTM, no norm.

  encoder: conv_in, blocks of residual layers and a strided convolution `down`
    that doubles the channels, lstm (plus its input), conv_out to `dim`;
  decoder: the mirror image with transposed convolutions `up`.

ELU comes before every convolution but the first of each half, so the residual
path carries no activation. (SoundStream does not say where its ELUs are.)
`lengths` is optional everywhere, see `mmdcodec.nn.conv`.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from mmdcodec.nn.conv import Conv, ConvTranspose, frames, mask_after
from mmdcodec.nn.lstm import LSTM


@dataclasses.dataclass(frozen=True)
class Network:
  """The fields of Codec that encoder and decoder need; see there."""

  topology: str
  channels: int
  causal: bool
  filters: int
  ratios: tuple[int, ...]
  dim: int
  kernel: int
  last_kernel: int
  residual_kernel: int
  dilations: tuple[int, ...]
  compress: int
  shortcut: str
  lstm_layers: int
  norm: str
  pad_mode: str
  trim_right_ratio: float
  dtype: str
  remat: bool

  def conv(self, features: int, kernel: int, name: str, **options):
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

  def up(self, features: int, ratio: int, name: str):
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


class Residual(nn.Module):
  """x + conv1x1(elu(conv(elu(x)))), or the shortcut convolution of x.

  Attributes:
    network: shape of the codec.
    dilation: of the first convolution.
  """

  network: Network
  dilation: int

  @nn.compact
  def __call__(self, x, lengths=None):
    """[batch, time, channels] -> the same shape."""
    n, width = self.network, x.shape[-1]
    inner = n.conv(
      width // n.compress, n.residual_kernel, "conv_0", dilation=self.dilation
    )
    y = inner(nn.elu(x), lengths)
    y = n.conv(width, 1, "conv_1")(nn.elu(y), lengths)
    if n.shortcut == "conv":
      x = n.conv(width, 1, "shortcut")(x, lengths)
    return x + y


class Down(nn.Module):
  """Block of the encoder: residual layers, then twice the channels."""

  network: Network
  ratio: int

  @nn.compact
  def __call__(self, x, lengths=None):
    """[batch, time, width] -> [batch, ceil(time / ratio), 2 * width]."""
    n, width = self.network, x.shape[-1]
    for i, dilation in enumerate(n.dilations):
      x = Residual(n, dilation, name=f"residual_{i}")(x, lengths)
    down = n.conv(2 * width, 2 * self.ratio, "down", stride=self.ratio)
    return down(nn.elu(x), lengths)


class Up(nn.Module):
  """Block of the decoder: half the channels, then residual layers."""

  network: Network
  ratio: int

  @nn.compact
  def __call__(self, x, lengths=None):
    """[batch, time, width] -> [batch, time * ratio, width / 2]."""
    n, width = self.network, x.shape[-1]
    x = n.up(width // 2, self.ratio, "up")(nn.elu(x), lengths)
    ends = None if lengths is None else lengths * self.ratio
    for i, dilation in enumerate(n.dilations):
      x = Residual(n, dilation, name=f"residual_{i}")(x, ends)
    return x


def _lstm(n: Network, x, lengths):
  """LSTM with a skip connection; needs no mask before, being causal."""
  y, _ = LSTM(x.shape[-1], n.lstm_layers, jnp.dtype(n.dtype), name="lstm")(x)
  return mask_after(x + y, lengths)


class Encoder(nn.Module):
  """Audio to latents, one every prod(ratios) samples."""

  network: Network

  @nn.compact
  def __call__(self, x, lengths=None):
    """[batch, samples, channels] -> [batch, frames, dim] float32."""
    n = self.network
    block = nn.remat(Down) if n.remat else Down
    x = n.conv(n.filters, n.kernel, "conv_in")(x, lengths)
    for i, ratio in enumerate(reversed(n.ratios)):
      x = block(n, ratio, name=f"block_{i}")(x, lengths)
      lengths = None if lengths is None else frames(lengths, ratio)
    if n.lstm_layers:
      x = _lstm(n, x, lengths)
    z = n.conv(n.dim, n.last_kernel, "conv_out")(nn.elu(x), lengths)
    return z.astype(jnp.float32)


class Decoder(nn.Module):
  """Latents to audio."""

  network: Network

  @nn.compact
  def __call__(self, z, lengths=None):
    """[batch, frames, dim] -> [batch, frames * stride, channels] float32."""
    n = self.network
    block = nn.remat(Up) if n.remat else Up
    width = n.filters * 2 ** len(n.ratios)
    x = n.conv(width, n.kernel, "conv_in")(z, lengths)
    if n.lstm_layers:
      x = _lstm(n, x, lengths)
    for i, ratio in enumerate(n.ratios):
      x = block(n, ratio, name=f"block_{i}")(x, lengths)
      lengths = None if lengths is None else lengths * ratio
    # SoundStream shortens the kernel towards the latents only (its Fig. 3).
    last = n.kernel if n.topology == "soundstream" else n.last_kernel
    x = n.conv(n.channels, last, "conv_out")(nn.elu(x), lengths)
    return x.astype(jnp.float32)
