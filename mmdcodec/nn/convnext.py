"""ConvNeXt blocks over time, the trunk of networks at the frame rate.

Liu et al., "A ConvNet for the 2020s" (arXiv 2201.03545), figure 4, in one
dimension, as in Vocos (arXiv 2306.00814). `ends` [batch] are the valid frames
of each example, None means all: an example gives the same result alone and in a
batch. In streaming the convolutions carry their context
(`mmdcodec.models.streaming`).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec.nn.conv import STREAM, mask_after, padding, streaming


class DepthwiseConv(nn.Module):
  """Convolves each channel by itself, over time.

  It is a sum of shifted products, because XLA's grouped convolutions are slow
  on CPUs.

  Attributes:
    kernel_size: taps.
    causal: no output depends on later frames.
    dtype: compute dtype; parameters are float32.
  """

  kernel_size: int
  causal: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, frames, channels] -> the same shape; x is zero after `ends`."""
    batch, count, channels = x.shape
    shape = self.kernel_size, channels
    init = nn.initializers.normal(self.kernel_size**-0.5)
    kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
    left, right = padding(self.kernel_size, 1, 1, self.causal)
    x = x.astype(self.dtype)
    if streaming(self):
      context = self.variable(
        STREAM, "context", jnp.zeros, (batch, left, channels), x.dtype
      )
      x = jnp.concatenate([context.value, x], 1)
      context.value = x[:, x.shape[1] - left :]
    else:
      x = jnp.pad(x, ((0, 0), (left, right), (0, 0)))
    taps = [x[:, i : i + count] * tap for i, tap in enumerate(kernel)]
    return sum(taps[1:], taps[0])


class Block(nn.Module):
  """x + gamma * dense(gelu(dense(norm(depthwise(x))))).

  Attributes:
    kernel_size: taps of the depthwise convolution.
    expansion: width between the dense layers, in widths of x.
    causal: no output depends on later frames.
    gamma: initial value of gamma.
    dtype: compute dtype; parameters and norms are float32.
  """

  kernel_size: int
  expansion: int
  causal: bool
  gamma: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, ends: jax.Array | None = None) -> jax.Array:
    """[batch, frames, width] -> the same shape, zero after `ends`."""
    width = x.shape[-1]
    y = DepthwiseConv(
      self.kernel_size, self.causal, self.dtype, name="depthwise"
    )(x)
    y = nn.LayerNorm(name="norm")(y)
    y = nn.Dense(self.expansion * width, dtype=self.dtype, name="expand")(y)
    y = nn.Dense(width, dtype=self.dtype, name="reduce")(nn.gelu(y))
    init = nn.initializers.constant(self.gamma)
    gamma = self.param("gamma", init, (width,), jnp.float32).astype(self.dtype)
    return mask_after(x + gamma * y, ends)


class ConvNeXt(nn.Module):
  """A stack of blocks between two dense layers, with norms around it.

  Attributes:
    width: channels of the blocks.
    blocks: number of blocks.
    out: channels of the output.
    kernel_size: taps of the depthwise convolutions.
    expansion: see `Block`.
    causal: no output depends on later frames.
    out_scale: factor of the initial weights of the last layer.
    dtype: compute dtype; parameters and norms are float32.
    remat: recompute blocks in the backward pass to save memory.
  """

  width: int
  blocks: int
  out: int
  kernel_size: int = 7
  expansion: int = 3
  causal: bool = False
  out_scale: float = 1.0
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, ends: jax.Array | None = None) -> jax.Array:
    """[batch, frames, channels] -> [batch, frames, out] float32.

    Not zero after `ends`.
    """
    block = nn.remat(Block) if self.remat else Block
    x = nn.Dense(self.width, dtype=self.dtype, name="dense_in")(x)
    x = nn.LayerNorm(name="norm_in")(x).astype(self.dtype)
    x = mask_after(x, ends)
    for i in range(self.blocks):
      x = block(
        self.kernel_size,
        self.expansion,
        self.causal,
        1 / self.blocks,
        self.dtype,
        name=f"block_{i}",
      )(x, ends)
    x = nn.LayerNorm(name="norm_out")(x)
    init = nn.initializers.variance_scaling(
      self.out_scale**2, "fan_in", "truncated_normal"
    )
    dense_out = nn.Dense(
      self.out, dtype=self.dtype, kernel_init=init, name="dense_out"
    )
    return dense_out(x).astype(jnp.float32)
