"""Discriminators on complex spectra (EnCodec, SoundStream).

On TPUs, narrow layers fold frames into channels, and the first layer folds bins
as well.
"""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.audio import transforms
from mmdcodec.bounds import list_of, number, whole
from mmdcodec.nn import folding
from mmdcodec.nn.conv_nd import ConvNd, leaky_relu


def complex_spectrum(x: jax.Array, *, window: int, hop: int) -> jax.Array:
  """Real and imaginary parts of the normalised STFT without padding.

  Args:
    x: [batch, samples, channels].
    window: samples of the Hann window and of the FFT.
    hop: samples between frames.

  Returns:
    float32 [batch, 1 + (samples - window) // hop, window // 2 + 1,
    2 * channels]; the real parts of all channels come first.
  """
  spectrum = transforms.stft(
    jnp.swapaxes(x.astype(jnp.float32), 1, 2),
    window=window,
    hop=hop,
    center=False,
    normalized=True,
  )
  parts = jnp.concatenate([spectrum.real, spectrum.imag], axis=1)
  return jnp.moveaxis(parts, 1, -1)


class SpectrumNetwork(nn.Module):
  """One window of `MultiScaleSTFTDiscriminator`, with fields of that class."""

  window: int
  filters: int
  kernel: tuple[int, int]
  dilations: tuple[int, ...]
  slope: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """[batch, samples, channels] -> logits [batch, frames, bins, 1], list."""
    y = complex_spectrum(x, window=self.window, hop=self.window // 4)
    square = (self.kernel[0],) * 2
    # The first layer has no weight norm in the released code.
    layers: list[dict[str, Any]] = [dict(taps=self.kernel, norm="none")]
    layers += [
      dict(taps=self.kernel, strides=(1, 2), dilations=(step, 1))
      for step in self.dilations
    ]
    layers.append(dict(taps=square))
    y = folding.refold(y, folding.filling(self.filters))
    features = []
    for i, layer in enumerate(layers):
      conv = ConvNd(self.filters, **layer, dtype=self.dtype, name=f"conv_{i}")
      y = leaky_relu(conv(y), self.slope)
      features.append(y)
    logits = ConvNd(1, square, dtype=self.dtype, name="conv_out")(y)
    return folding.unfold(logits), features


class MultiScaleSTFTDiscriminator(bounds.Checked, nn.Module):
  """Convolutions over complex spectra of several windows.

  EnCodec, arXiv 2210.13438, section 3.4. Per window: an STFT whose hop is a
  quarter of the window, with real and imaginary parts as channels; a
  convolution; one per dilation (in time) with stride 2 in frequency; a square
  one; and a square one to the logits. The released code has kernels of 3 x 9
  where the paper says 3 x 8.

  Attributes:
    filters: channels of every layer.
    windows: samples of each window; one sub-discriminator per window.
    kernel: taps in time and frequency.
    dilations: dilations in time of the strided layers.
    slope: slope of LeakyReLU below 0. EnCodec and MusicGen were trained with
      0.3 (the released configs); the default of the released class is 0.2.
    dtype: compute dtype.
  """

  called = "the discriminator multi_scale_stft"

  filters: Annotated[int, whole(1, 1 << 10)] = 32
  windows: Annotated[tuple[int, ...], list_of(whole(4, 1 << 16), 16)] = (
    1024, 2048, 512, 256, 128
  )  # fmt: skip
  kernel: Annotated[tuple[int, int], list_of(whole(1, 63), 2, 2)] = (3, 9)
  dilations: Annotated[tuple[int, ...], list_of(whole(1, 1 << 10), 16)] = (
    1, 2, 4
  )  # fmt: skip
  slope: Annotated[float, number(0, 1)] = 0.3
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def parts(self) -> tuple[str, ...]:
    """Names of the sub-discriminators."""
    return tuple(f"window_{w}" for w in self.windows)

  @property
  def shortest(self) -> int:
    """Minimum number of samples of a clip."""
    return max(self.windows)

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if any(w % 4 for w in self.windows):
      return "its windows must be multiples of 4"
    if len({*self.windows}) < len(self.windows):
      return f"a window appears twice in {self.windows}"
    if any(k % 2 == 0 for k in self.kernel):
      return "its kernel must be two odd numbers"
    return None

  @nn.compact
  def __call__(self, x: jax.Array) -> list[tuple[jax.Array, list[jax.Array]]]:
    """[batch, samples, channels] -> (logits, features) per window."""
    return [
      SpectrumNetwork(
        window,
        self.filters,
        self.kernel,
        self.dilations,
        self.slope,
        self.dtype,
        name=name,
      )(x)
      for window, name in zip(self.windows, self.parts, strict=True)
    ]


class ResidualBlock(nn.Module):
  """Two convolutions, the second strided, and a strided 1 x 1 shortcut.

  Attributes:
    inner: channels between the two convolutions.
    features: output channels.
    strides: strides in time and frequency; the second kernel is longer by 2.
    slope: slope of LeakyReLU below 0.
    dtype: compute dtype.
  """

  inner: int
  features: int
  strides: tuple[int, int]
  slope: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Any) -> Any:
    """[batch, frames, bins, channels], an array or a folded signal.

    Returns:
      [batch, frames / strides[0], bins / strides[1], features], rounded up.
    """
    conv = lambda features, taps, name, **options: ConvNd(
      features, taps, dtype=self.dtype, name=name, **options
    )
    pads = tuple(
      (1, 1 + size % stride)
      for size, stride in zip(x.shape[1:3], self.strides, strict=True)
    )
    taps = tuple(stride + 2 for stride in self.strides)
    y = leaky_relu(conv(self.inner, (3, 3), "conv_0")(x), self.slope)
    y = conv(self.features, taps, "conv_1", strides=self.strides, pads=pads)(y)
    shortcut = conv(self.features, (1, 1), "shortcut", strides=self.strides)
    return leaky_relu(y + shortcut(x), self.slope)


class STFTDiscriminator(bounds.Checked, nn.Module):
  """Residual blocks over the complex spectrum of one window.

  SoundStream, arXiv 2107.03312, section III-D and figure 4: a 7 x 7
  convolution, six blocks, and a convolution over all remaining frequencies to
  logits over time. The paper counts window / 2 bins, so the highest is left
  out. It names neither activation nor norm; they are those of the other
  discriminators.

  Attributes:
    filters: channels of the first layer; the last one has 16 times as many.
    window: samples, a multiple of 128.
    hop: samples between frames.
    slope: slope of LeakyReLU below 0.
    dtype: compute dtype.
  """

  called = "the discriminator stft"

  filters: Annotated[int, whole(1, 1 << 10)] = 32
  window: Annotated[int, whole(4, 1 << 16)] = 1024
  hop: Annotated[int, whole(1, 1 << 16)] = 256
  slope: Annotated[float, number(0, 1)] = 0.2
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  # For each block, its inner and outer channels per filter, and its strides.
  BLOCKS = (
    (1, 2, (1, 2)),
    (2, 4, (2, 2)),
    (4, 4, (1, 2)),
    (4, 8, (2, 2)),
    (8, 8, (1, 2)),
    (8, 16, (2, 2)),
  )

  @property
  def parts(self) -> tuple[str, ...]:
    """Names of the sub-discriminators."""
    return (f"window_{self.window}",)

  @property
  def shortest(self) -> int:
    """Minimum number of samples of a clip."""
    return self.window

  @property
  def problem(self) -> str | None:
    """See the base class."""
    return "its window must be a multiple of 128" if self.window % 128 else None

  @nn.compact
  def __call__(self, x: jax.Array) -> list[tuple[jax.Array, list[jax.Array]]]:
    """[batch, samples, channels] -> one pair; logits [batch, frames / 8, 1]."""
    y = complex_spectrum(x, window=self.window, hop=self.hop)[:, :, :-1]
    first = ConvNd(self.filters, (7, 7), dtype=self.dtype, name="conv_in")
    y = leaky_relu(
      first(folding.refold(y, folding.filling(self.filters))),
      self.slope,
    )
    features = [y]
    for i, (inner, after, strides) in enumerate(self.BLOCKS):
      if folding.filling(inner * self.filters) == 1:
        y = folding.unfold(y)
      block = ResidualBlock(
        inner * self.filters,
        after * self.filters,
        strides,
        self.slope,
        self.dtype,
        name=f"block_{i}",
      )
      y = block(y)
      features.append(y)
    y = folding.unfold(y)
    last = ConvNd(
      1,
      (1, y.shape[2]),
      pads=((0, 0), (0, 0)),
      dtype=self.dtype,
      name="conv_out",
    )
    return [(last(y)[:, :, 0], features)]
