"""Discriminators that look at the waveform (MelGAN, HiFi-GAN).

On TPUs the narrow layers of MelGAN's run with time folded into channels, their
groups as one kernel with zeros. HiFi-GAN's are as they are: no recipe has them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.nn import folding
from mmdcodec.nn.conv_nd import ConvNd, leaky_relu


def halve(x: jax.Array) -> jax.Array:
  """Means of 4 samples, every 2; [batch, time, channels] -> time // 2.

  The first begins one sample before the signal (and the last may end one
  after); what lies outside does not count in the mean.
  """
  time, half = x.shape[1], x.shape[1] // 2
  pairs = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))[:, : 2 * half + 2]
  pairs = pairs.reshape(x.shape[0], half + 1, 2, -1).sum(2)
  inside = np.arange(-1, 2 * half + 1)
  inside = (inside >= 0) & (inside < time)
  inside = inside.reshape(-1, 2).sum(1)
  count = (inside[:-1] + inside[1:]).astype(np.float32)
  return (pairs[:, :-1] + pairs[:, 1:]) / count[:, None]


class WaveNetwork(nn.Module):
  """One scale of `MultiScaleWaveDiscriminator`; see there."""

  filters: int
  max_filters: int
  slope: float
  dtype: Any

  @nn.compact
  def __call__(self, x):
    """[batch, samples, channels] -> logits [batch, samples / 256, 1], list."""
    y = jnp.pad(x, ((0, 0), (7, 7), (0, 0)), mode="reflect")
    width = self.filters
    layers = [dict(features=width, taps=(15,), pads=((0, 0),))]
    for _ in range(4):
      groups, width = width // 4, min(4 * width, self.max_filters)
      layers.append(
        dict(features=width, taps=(41,), strides=(4,), groups=groups)
      )
    layers.append(dict(features=min(2 * width, self.max_filters), taps=(5,)))
    # By how much to fold what each layer gives, and the stride of the next.
    strides = [layer.get("strides", (1,))[0] for layer in layers[1:]]
    folds = folding.wanted_factors(
      [layer["features"] for layer in layers], [*strides, 1]
    )
    features = []
    # The first layer has no stride: it takes what it gives.
    for i, (layer, factor) in enumerate(
      zip(layers, [folds[0], *folds[:-1]], strict=True)
    ):
      y = folding.refold(y, factor)
      conv = ConvNd(**layer, dtype=self.dtype, name=f"conv_{i}")
      y = leaky_relu(conv(y), self.slope)
      features.append(y)
    y = folding.unfold(y)
    return ConvNd(1, (3,), dtype=self.dtype, name="conv_out")(y), features


class MultiScaleWaveDiscriminator(nn.Module):
  """Strided grouped convolutions over the waveform (MelGAN; SoundStream III-D).

  Per scale (the signal, and averaged down by 2 and 4): a convolution, four
  with stride 4 and groups of 4 input channels, two more to the logits.

  Attributes:
    filters: channels of the first layer, a multiple of 4; times 4 per layer.
    max_filters: most channels.
    scales: number of them, each half as long as the one before.
    slope: of LeakyReLU below 0.
    dtype: of the computation.
  """

  filters: int = 16
  max_filters: int = 1024
  scales: int = 3
  slope: float = 0.2
  dtype: Any = jnp.float32

  @property
  def parts(self) -> tuple[str, ...]:
    """Names of the sub-discriminators."""
    return tuple(f"scale_{2**i}" for i in range(self.scales))

  @property
  def shortest(self) -> int:
    """Samples that a clip must have; reflection takes 8 of the last scale."""
    return 8 * 2 ** (self.scales - 1)

  def problem(self) -> str | None:
    """What is wrong with the fields, or None."""
    widths = [min(self.filters * 4**i, self.max_filters) for i in range(5)]
    pairs = zip(widths[:-1], widths[1:], strict=True)
    if self.filters > self.max_filters or any(
      a % 4 or b % (a // 4) for a, b in pairs
    ):
      return "`filters` must be a multiple of 4, `max_filters` one of `filters`"
    return None

  @nn.compact
  def __call__(self, x):
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
  """One period of `MultiPeriodDiscriminator`; see there."""

  period: int
  filters: int
  max_filters: int
  slope: float
  dtype: Any

  @nn.compact
  def __call__(self, x):
    """[batch, samples, channels] -> logits [batch, period, time, 1], list."""
    batch, samples, channels = x.shape
    pad = -samples % self.period
    y = jnp.pad(x, ((0, 0), (0, pad), (0, 0)), mode="reflect")
    # Kernels are one wide across the period: its phases are more clips.
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


class MultiPeriodDiscriminator(nn.Module):
  """Convolutions over every p-th sample (HiFi-GAN, section 2.3).

  Per period p: the waveform as p interleaved signals, to which the same
  convolutions over time apply: four with stride 3, one without, one to the
  logits. As in the published code, the logits are the last of the features.

  Attributes:
    filters: channels of the first layer; times 4 in each of the next.
    max_filters: most channels.
    periods: samples; one sub-discriminator each.
    slope: of LeakyReLU below 0.
    dtype: of the computation.
  """

  filters: int = 32
  max_filters: int = 1024
  periods: tuple[int, ...] = (2, 3, 5, 7, 11)
  slope: float = 0.1
  dtype: Any = jnp.float32

  @property
  def parts(self) -> tuple[str, ...]:
    """Names of the sub-discriminators."""
    return tuple(f"period_{p}" for p in self.periods)

  @property
  def shortest(self) -> int:
    """Samples that a clip must have, for its reflection."""
    return max(self.periods)

  def problem(self) -> str | None:
    """What is wrong with the fields, or None."""
    return None

  @nn.compact
  def __call__(self, x):
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
