"""Discriminators on the waveform (MelGAN, HiFi-GAN).

On TPUs, narrow layers of MelGAN's discriminators fold time into channels, and
their groups become one kernel with zeros. HiFi-GAN's do not, because no recipe
uses them.
"""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import bounds
from mmdcodec.bounds import list_of, number, whole
from mmdcodec.nn import folding
from mmdcodec.nn.conv_nd import ConvNd, leaky_relu


def halve(x: jax.Array) -> jax.Array:
  """Averages 4 samples with stride 2.

  The first window starts one sample before the signal, and the last one may end
  one sample after it. Samples outside do not count in the mean.

  Args:
    x: [batch, time, channels].

  Returns:
    [batch, time // 2, channels].
  """
  time, half = x.shape[1], x.shape[1] // 2
  pairs = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))[:, : 2 * half + 2]
  pairs = pairs.reshape(x.shape[0], half + 1, 2, -1).sum(2)
  position = np.arange(-1, 2 * half + 1)
  inside = ((position >= 0) & (position < time)).reshape(-1, 2).sum(1)
  count = (inside[:-1] + inside[1:]).astype(np.float32)
  return (pairs[:, :-1] + pairs[:, 1:]) / count[:, None]


class WaveNetwork(nn.Module):
  """One scale of `MultiScaleWaveDiscriminator`, with fields of that class."""

  filters: int
  max_filters: int
  slope: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """[batch, samples, channels] -> logits [batch, samples / 256, 1], list."""
    y = jnp.pad(x, ((0, 0), (7, 7), (0, 0)), mode="reflect")
    width = self.filters
    layers: list[dict[str, Any]] = [
      dict(features=width, taps=(15,), pads=((0, 0),))
    ]
    for _ in range(4):
      groups, width = width // 4, min(4 * width, self.max_filters)
      layers.append(
        dict(features=width, taps=(41,), strides=(4,), groups=groups)
      )
    layers.append(dict(features=min(2 * width, self.max_filters), taps=(5,)))
    # The fold of each layer's output depends on the stride of the next layer.
    strides = [layer.get("strides", (1,))[0] for layer in layers[1:]]
    folds = folding.wanted_factors(
      [layer["features"] for layer in layers], [*strides, 1]
    )
    features = []
    # The first layer has no stride: its input is folded like its output.
    for i, (layer, factor) in enumerate(
      zip(layers, [folds[0], *folds[:-1]], strict=True)
    ):
      y = folding.refold(y, factor)
      conv = ConvNd(**layer, dtype=self.dtype, name=f"conv_{i}")
      y = leaky_relu(conv(y), self.slope)
      features.append(y)
    y = folding.unfold(y)
    return ConvNd(1, (3,), dtype=self.dtype, name="conv_out")(y), features


class MultiScaleWaveDiscriminator(bounds.Checked, nn.Module):
  """Strided grouped convolutions over the waveform.

  MelGAN, arXiv 1910.06711; SoundStream, arXiv 2107.03312, section III-D. Per
  scale (the signal, and its averages over 2 and 4 samples): a
  convolution, four with stride 4 and groups of 4 input channels, and two more
  to the logits.

  Attributes:
    filters: channels of the first layer, a multiple of 4; each strided layer
      has 4 times as many.
    max_filters: upper bound of the channels.
    scales: number of scales, each half as long as the one before.
    slope: slope of LeakyReLU below 0.
    dtype: compute dtype.
  """

  called = "the discriminator multi_scale_wave"

  filters: Annotated[int, whole(1, 1 << 10)] = 16
  max_filters: Annotated[int, whole(1, 1 << 14)] = 1024
  scales: Annotated[int, whole(1, 12)] = 3
  slope: Annotated[float, number(0, 1)] = 0.2
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def parts(self) -> tuple[str, ...]:
    """Names of the sub-discriminators."""
    return tuple(f"scale_{2**i}" for i in range(self.scales))

  @property
  def shortest(self) -> int:
    """Minimum samples of a clip; padding reflects 8 of the last scale."""
    return 8 * 2 ** (self.scales - 1)

  @property
  def problem(self) -> str | None:
    """See the base class."""
    widths = [min(self.filters * 4**i, self.max_filters) for i in range(5)]
    pairs = zip(widths[:-1], widths[1:], strict=True)
    if self.filters > self.max_filters or any(
      a % 4 or b % (a // 4) for a, b in pairs
    ):
      return "filters must be a multiple of 4, max_filters one of filters"
    return None

  @nn.compact
  def __call__(self, x: jax.Array) -> list[tuple[jax.Array, list[jax.Array]]]:
    """[batch, samples, channels] -> (logits, features) per scale."""
    found = []
    for i, name in enumerate(self.parts):
      x = halve(x) if i else x
      network = WaveNetwork(
        self.filters, self.max_filters, self.slope, self.dtype, name=name
      )
      found.append(network(x))
    return found


class PeriodNetwork(nn.Module):
  """One period of `MultiPeriodDiscriminator`, with fields of that class."""

  period: int
  filters: int
  max_filters: int
  slope: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """[batch, samples, channels] -> logits [batch, period, time, 1], list."""
    batch, samples, channels = x.shape
    pad = -samples % self.period
    y = jnp.pad(x, ((0, 0), (0, pad), (0, 0)), mode="reflect")
    # Kernels have width 1 across the period, so phases act as separate clips.
    y = y.reshape(batch, -1, self.period, channels).swapaxes(1, 2)
    y = y.reshape(batch * self.period, -1, channels)
    unfold = lambda y: y.reshape(batch, self.period, *y.shape[1:])
    features = []
    for i in range(5):
      width = min(self.filters * 4**i, self.max_filters)
      strides = (3 if i < 4 else 1,)
      conv = ConvNd(
        width, (5,), strides=strides, dtype=self.dtype, name=f"conv_{i}"
      )
      y = leaky_relu(conv(y), self.slope)
      features.append(unfold(y))
    logits = unfold(ConvNd(1, (3,), dtype=self.dtype, name="conv_out")(y))
    return logits, [*features, logits]


class MultiPeriodDiscriminator(bounds.Checked, nn.Module):
  """Convolutions over every p-th sample (HiFi-GAN, arXiv 2010.05646, 2.3).

  Per period p: the waveform as p interleaved signals, with the same
  convolutions over time for each: four with stride 3, one without, and one to
  the logits. As in the published code, the logits are the last feature.

  Attributes:
    filters: channels of the first layer; each next one has 4 times as many.
    max_filters: upper bound of the channels.
    periods: samples of each period; one sub-discriminator per period.
    slope: slope of LeakyReLU below 0.
    dtype: compute dtype.
  """

  called = "the discriminator multi_period"

  filters: Annotated[int, whole(1, 1 << 10)] = 32
  max_filters: Annotated[int, whole(1, 1 << 14)] = 1024
  periods: Annotated[tuple[int, ...], list_of(whole(1, 1 << 12), 16)] = (
    2, 3, 5, 7, 11
  )  # fmt: skip
  slope: Annotated[float, number(0, 1)] = 0.1
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def parts(self) -> tuple[str, ...]:
    """Names of the sub-discriminators."""
    return tuple(f"period_{p}" for p in self.periods)

  @property
  def shortest(self) -> int:
    """Minimum samples of a clip, because padding reflects it."""
    return max(self.periods)

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if len({*self.periods}) < len(self.periods):
      return f"a period appears twice in {self.periods}"
    return None

  @nn.compact
  def __call__(self, x: jax.Array) -> list[tuple[jax.Array, list[jax.Array]]]:
    """[batch, samples, channels] -> (logits, features) per period."""
    return [
      PeriodNetwork(
        period,
        self.filters,
        self.max_filters,
        self.slope,
        self.dtype,
        name=name,
      )(x)
      for period, name in zip(self.periods, self.parts, strict=True)
    ]
