"""HuBERT and MERT: a Transformer over convolutions of the wave.

HuBERT: Hsu et al. 2021, arXiv 2106.07447. MERT has the same body, trained on
music at 24 kHz: Li et al. 2023, arXiv 2306.00107. Every 320 samples give a
vector.

The first convolution of most of these models normalises each channel over the
whole clip, so padding would change every vector: here a clip's statistics stop
where the clip does.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import flag, list_of, one_of, whole
from mmdcodec.models import fields
from mmdcodec.models.bert import BertBlock
from mmdcodec.nn import stacked
from mmdcodec.nn.attention import kernel_init
from mmdcodec.nn.conv import length_mask
from mmdcodec.nn.conv_nd import conv_nd

NORMS = ("group", "layer")


def standardise(x: jax.Array, valid: jax.Array, epsilon: float) -> jax.Array:
  """Makes each channel of each clip of mean 0 and deviation 1 over time.

  Args:
    x: float32 [batch, time, channels].
    valid: bool [batch, time].
    epsilon: added to the variance.

  Returns:
    float32 [batch, time, channels], 0 where `valid` is False.
  """
  where = valid[..., None]
  count = jnp.maximum(jnp.sum(where, 1, keepdims=True), 1)
  mean = jnp.sum(jnp.where(where, x, 0), 1, keepdims=True) / count
  x = jnp.where(where, x - mean, 0)
  variance = jnp.sum(x * x, 1, keepdims=True) / count
  return x * jax.lax.rsqrt(variance + epsilon)


class WaveFrontEnd(nn.Module):
  """Convolutions without padding; for the attributes see `Hubert`."""

  sizes: tuple[int, ...]
  kernels: tuple[int, ...]
  strides: tuple[int, ...]
  norm: str
  use_bias: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """float32 [batch, samples, 1], int [batch] -> [batch, frames, size]."""
    ends = lengths
    y: Any = x
    for i, (size, taps, stride) in enumerate(
      zip(self.sizes, self.kernels, self.strides, strict=True)
    ):
      kernel = self.param(
        f"kernel_{i}", kernel_init(2.0), (taps, y.shape[-1], size), jnp.float32
      )
      y = conv_nd(
        y.astype(self.dtype),
        kernel,
        strides=(stride,),
        dilations=(1,),
        pads=((0, 0),),
      )
      ends = (ends - taps) // stride + 1
      if self.use_bias:
        bias = self.param(
          f"bias_{i}", nn.initializers.zeros, (size,), jnp.float32
        )
        y = y + bias.astype(self.dtype)
      if self.norm == "layer":
        y = nn.LayerNorm(
          epsilon=1e-5, use_fast_variance=False, name=f"norm_{i}"
        )(y)
      elif i == 0:
        scale = self.param("scale", nn.initializers.ones, (size,), jnp.float32)
        offset = self.param(
          "offset", nn.initializers.zeros, (size,), jnp.float32
        )
        valid = length_mask(ends, y.shape[1])
        y = standardise(y.astype(jnp.float32), valid, 1e-5) * scale + offset
      y = nn.gelu(y, approximate=False)
    return y.astype(jnp.float32)


class PositionConvolution(nn.Module):
  """A wide convolution in groups of channels, which tells positions.

  Attributes:
    taps: kernel size.
    groups: groups of channels that do not mix.
  """

  taps: int
  groups: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """float32 [batch, frames, width], 0 where not valid -> the same shape."""
    batch, count, width = x.shape
    size = width // self.groups
    kernel = self.param(
      "kernel", kernel_init(), (self.taps, size, width), jnp.float32
    ).reshape(self.taps, size, self.groups, size)
    bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)

    # Group by group: the columns of all groups at once take too much memory,
    # and XLA's own groups are slow on CPUs.
    def one(part: tuple[jax.Array, jax.Array]) -> Any:
      return conv_nd(
        part[0],
        part[1],
        strides=(1,),
        dilations=(1,),
        # An even kernel reaches one frame farther back.
        pads=((self.taps // 2, (self.taps - 1) // 2),),
      )

    parts = jnp.moveaxis(x.reshape(batch, count, self.groups, size), 2, 0)
    y = jax.lax.map(one, (parts, jnp.moveaxis(kernel, 2, 0)))
    y = jnp.moveaxis(y, 0, 2).reshape(batch, count, width)
    return nn.gelu(y + bias, approximate=False)


class Hubert(bounds.Checked, nn.Module):
  """Features of audio, without dropout.

  Attributes:
    rate: sample rate in Hz.
    normalise: makes each clip of mean 0 and deviation 1 first.
    sizes: channels of the convolutions of the wave.
    kernels: their taps.
    strides: their strides.
    conv_norm: "group" normalises the first one over time, "layer" every one
      over channels.
    conv_bias: adds a bias to each of them.
    project_norm: normalises their output.
    layers: number of Transformer blocks.
    width: channels of a vector.
    heads: attention heads.
    hidden: width of the feed-forward layers.
    position_kernel: taps of the convolution that tells positions.
    position_groups: its groups of channels.
    norm_first: norms come before the layers of a block, not after its sums.
    feature_layer: block, counted from 1, whose output is the features; if
      norms come first, that of the last block is normalised once more.
    dtype: compute dtype, "float32" or "bfloat16".
  """

  called = "HuBERT"

  rate: Annotated[int, whole(1000, 1_000_000)] = 16_000
  normalise: Annotated[bool, flag()] = True
  sizes: Annotated[tuple[int, ...], list_of(whole(1, 1 << 14), 16)] = (512,) * 7
  kernels: Annotated[tuple[int, ...], list_of(whole(1, 256), 16)] = (
    *(10, 3, 3, 3),
    *(3, 2, 2),
  )
  strides: Annotated[tuple[int, ...], list_of(whole(1, 256), 16)] = (
    *(5, 2, 2, 2),
    *(2, 2, 2),
  )
  conv_norm: Annotated[str, one_of(NORMS)] = "group"
  conv_bias: Annotated[bool, flag()] = False
  project_norm: Annotated[bool, flag()] = True
  layers: Annotated[int, whole(1, 256)] = 12
  width: Annotated[int, whole(1, 1 << 14)] = 768
  heads: Annotated[int, whole(1, 256)] = 12
  hidden: Annotated[int, whole(1, 1 << 17)] = 3072
  position_kernel: Annotated[int, whole(1, 1 << 10)] = 128
  position_groups: Annotated[int, whole(1, 1 << 10)] = 16
  norm_first: Annotated[bool, flag()] = False
  feature_layer: Annotated[int, whole(1, 256)] = 7
  dtype: Annotated[str, bounds.dtype("float32", "bfloat16")] = "float32"

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if not len(self.sizes) == len(self.kernels) == len(self.strides):
      return "its sizes, kernels and strides differ in number"
    if self.stride > 1 << 20:
      return f"its strides multiply to {self.stride}; at most 2^20 can be used"
    for parts in (self.heads, self.position_groups):
      if self.width % parts:
        return f"its width is {self.width}; it must be a multiple of {parts}"
    if self.feature_layer > self.layers:
      return (
        f"feature_layer is {self.feature_layer}; it must be at most"
        f" layers, {self.layers}"
      )
    return None

  @property
  def stride(self) -> int:
    """Samples from a vector to the next."""
    return math.prod(self.strides)

  @property
  def shortest(self) -> int:
    """Samples of the shortest clip with a vector."""
    count = 1
    for taps, stride in zip(
      self.kernels[::-1], self.strides[::-1], strict=True
    ):
      count = (count - 1) * stride + taps
    return count

  @nn.nowrap
  def frames_of(self, samples: Any) -> Any:
    """Number of vectors of so many samples; works for arrays too."""
    for taps, stride in zip(self.kernels, self.strides, strict=True):
      samples = (samples - taps) // stride + 1
    return samples

  @property
  def block(self) -> dict[str, Any]:
    """Fields of a `BertBlock`."""
    return dict(
      heads=self.heads,
      hidden=self.hidden,
      epsilon=1e-5,
      dtype=jnp.dtype(self.dtype),
      norm_first=self.norm_first,
    )

  def setup(self) -> None:
    """Builds the network."""
    norm = lambda: nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
    dtype = jnp.dtype(self.dtype)
    self.front = WaveFrontEnd(
      self.sizes,
      self.kernels,
      self.strides,
      self.conv_norm,
      self.conv_bias,
      dtype,
    )
    if self.project_norm:
      self.front_norm = norm()
    self.project = nn.Dense(self.width, dtype=dtype)
    self.position = PositionConvolution(
      self.position_kernel, self.position_groups
    )
    self.norm = norm()
    self.blocks = stacked.scan(BertBlock, self.layers)(**self.block)

  def features(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Vectors of each frame, to be clustered.

    Args:
      x: float32 [batch, samples, 1]; samples are a multiple of the stride.
      lengths: int [batch], valid samples.

    Returns:
      float32 [batch, samples / stride, width], 0 where an item has no frames.
    """
    bounds.check_shape("x", x, batch=..., samples=None, channels=1)
    count = x.shape[1] // self.stride
    valid = length_mask(lengths, x.shape[1])
    x = jnp.where(valid[..., None], x, 0)
    if self.normalise:
      x = standardise(x, valid, 1e-7)
    # The last frames reach beyond the end.
    x = jnp.pad(x, ((0, 0), (0, self.shortest), (0, 0)))
    x = self.front(x, lengths)[:, :count]
    if self.project_norm:
      x = self.front_norm(x)
    mask = length_mask(self.frames_of(lengths), count)
    x = self.project(x).astype(jnp.float32)
    x = jnp.where(mask[..., None], x, 0)
    x = x + self.position(x)
    if not self.norm_first:
      x = self.norm(x)
    seen = mask[:, None, None]
    if self.is_initializing():
      x, _ = self.blocks(x, seen)
    else:
      variables = {"params": self.variables["params"]["blocks"]}
      block = BertBlock(**self.block, parent=None)
      x = stacked.run_first(block, variables, self.feature_layer, x, seen)
    last = self.feature_layer == self.layers or self.is_initializing()
    if self.norm_first and last:
      x = self.norm(x)
    return jnp.where(mask[..., None], x, 0)


def from_config(config: Mapping[str, Any]) -> Hubert:
  """Builds the network from a mapping of its fields.

  Raises:
    UserError: an unknown key, or an invalid value.
  """
  return fields.build(Hubert, config)
