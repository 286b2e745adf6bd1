"""A residual network over a spectrogram, pooled to one vector.

ResNet-50 (He et al. 2016, arXiv 1512.03385), with the stride in the 3 x 3
convolution and the last norm of a block starting at zero (Goyal et al. 2017,
arXiv 1706.02677). Group norm (Wu and He 2018, arXiv 1803.08494) takes the place
of batch norm: in a contrastive loss, statistics of the batch would tell one
item about the others. A mask leaves out the frames that a shorter clip does not
have: they are zeros for the convolutions, and do not count in norms or in the
mean.
"""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import list_of, one_of, whole
from mmdcodec.nn.stacked import REMAT
from mmdcodec.parallel import rules

# Groups of channels of a norm.
GROUPS = 32


def _halved(valid: jax.Array) -> jax.Array:
  """The frames [batch, ceil(frames / 2)] of a layer with stride 2."""
  return valid[:, ::2]


def _masked(x: jax.Array, valid: jax.Array) -> jax.Array:
  """Zeroes x [batch, frames, bands, channels] where frames are not valid."""
  return jnp.where(valid[:, :, None, None], x, 0)


class Norm(nn.Module):
  """Group norm over the valid frames.

  Attributes:
    zero: starts with a scale of 0.
    dtype: dtype of the output; statistics are float32.
  """

  zero: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, valid: jax.Array) -> jax.Array:
    """Normalises x [batch, frames, bands, channels]; padding becomes 0."""
    batch, frames, bands, channels = x.shape
    groups = min(GROUPS, channels)
    y = _masked(x.astype(jnp.float32), valid)
    y = y.reshape(batch, frames, bands, groups, -1)
    axes = (1, 2, 4)
    count = bands * y.shape[-1] * jnp.maximum(valid.sum(1), 1)
    count = count[:, None, None, None, None]
    y -= y.sum(axes, keepdims=True) / count
    y = jnp.where(valid[:, :, None, None, None], y, 0.0)
    variance = (y * y).sum(axes, keepdims=True) / count
    y = (y * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
    start = nn.initializers.zeros if self.zero else nn.initializers.ones
    y *= self.param("scale", start, (channels,), jnp.float32)
    y += self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
    return _masked(y, valid).astype(self.dtype)


class Bottleneck(nn.Module):
  """Three convolutions (1 x 1, 3 x 3, 1 x 1) beside a shortcut.

  Attributes:
    channels: channels of the 3 x 3 convolution; the output has four times as
      many.
    stride: in time and in bands, 1 or 2.
    dtype: compute dtype.
  """

  channels: int
  stride: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, valid: jax.Array) -> jax.Array:
    """Applies the block to x [batch, frames, bands, channels].

    Args:
      x: the input, 0 where it is not valid.
      valid: bool [batch, frames].

    Returns:
      The output, with `stride` fewer frames and bands.
    """
    conv = functools.partial(_conv, dtype=self.dtype)
    after = _halved(valid) if self.stride == 2 else valid
    y = conv(self.channels, 1, 1, "conv_in")(x)
    y = nn.relu(Norm(False, self.dtype, name="norm_in")(y, valid))
    y = conv(self.channels, 3, self.stride, "conv")(y)
    y = nn.relu(Norm(False, self.dtype, name="norm")(y, after))
    y = conv(4 * self.channels, 1, 1, "conv_out")(y)
    y = Norm(True, self.dtype, name="norm_out")(y, after)
    if x.shape != y.shape:
      x = conv(4 * self.channels, 1, self.stride, "conv_shortcut")(x)
      x = Norm(False, self.dtype, name="norm_shortcut")(x, after)
    return nn.relu(x + y)


class ResNet(bounds.Checked, nn.Module):
  """Maps spectrograms to vectors.

  Attributes:
    blocks: number of blocks of each stage; (3, 4, 6, 3) is ResNet-50.
    channels: channels of the first stage, doubled by each further one.
    remat: "full" recomputes each block in the backward pass.
    dtype: compute dtype; parameters and statistics are float32.
  """

  called = "the audio tower"

  blocks: Annotated[Any, list_of(whole(1, 64), 8)] = (3, 4, 6, 3)
  channels: Annotated[int, whole(1, 1 << 12)] = 64
  remat: Annotated[str, one_of(("none", *REMAT))] = "none"
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if self.channels % GROUPS and GROUPS % self.channels:
      return (
        f"its {self.channels} channels must divide {GROUPS}, or be a multiple"
        " of it"
      )
    return None

  @nn.compact
  def __call__(
    self, x: jax.Array, valid: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Encodes spectrograms.

    Args:
      x: float32 [batch, frames, bands].
      valid: bool [batch, frames], True for the first frames of an item, at
        least one.
      train: unused; there is no dropout.

    Returns:
      float32 [batch, channels * 4 * 2 ** (stages - 1)].
    """
    del train
    x = _masked(x[..., None], valid).astype(self.dtype)
    x = _conv(self.channels, 7, 2, "conv_in", dtype=self.dtype)(x)
    valid = _halved(valid)
    x = nn.relu(Norm(False, self.dtype, name="norm_in")(x, valid))
    # Never below 0, so zeros pad like nothing.
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    valid = _halved(valid)
    x = _masked(x, valid)
    kind = Bottleneck
    if self.remat != "none":
      kind = nn.remat(kind, policy=REMAT[self.remat])
    for stage, count in enumerate(self.blocks):
      for i in range(count):
        stride = 2 if stage and not i else 1
        block = kind(
          self.channels << stage,
          stride,
          self.dtype,
          name=f"stage{stage}_block{i}",
        )
        x = block(x, valid)
        valid = _halved(valid) if stride == 2 else valid
        x = rules.constrain(x, "batch", None, None, None)
    weights = valid[:, :, None].astype(jnp.float32)
    total = jnp.sum(x.astype(jnp.float32).mean(2) * weights, 1)
    return total / jnp.maximum(weights.sum(1), 1.0)


def _conv(
  channels: int, size: int, stride: int, name: str, *, dtype: Any
) -> nn.Conv:
  """A square convolution whose output frame t is centred on frame t*stride."""
  side = (size - 1) // 2
  return nn.Conv(
    channels,
    (size, size),
    (stride, stride),
    padding=((side, side), (side, side)),
    use_bias=False,
    dtype=dtype,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    name=name,
  )
