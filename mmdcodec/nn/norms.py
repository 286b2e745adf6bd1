"""Normalisation of weights, outputs of convolutions, and embeddings."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

NORMS = ("none", "weight", "time_group")

# Stays in float32, whatever the dtype of the computation. Flax's fast variance,
# E[x^2] - E[x]^2, loses digits where a mean is large.
layer_norm = functools.partial(
  nn.LayerNorm, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False
)


def unit_vectors(x: jax.Array, shortest: float = 1e-6) -> jax.Array:
  """Scales vectors to length 1.

  Args:
    x: [..., width].
    shortest: shorter vectors are divided by this length instead of their own,
      so that the gradient is finite at 0. PyTorch's `normalize` has 1e-12.

  Returns:
    float32, the same shape.
  """
  x = x.astype(jnp.float32)
  square = jnp.sum(x * x, -1, keepdims=True)
  return x * lax.rsqrt(jnp.maximum(square, shortest**2))


def weight_norm(g: jax.Array, v: jax.Array, axis: int) -> jax.Array:
  """Kernel g * v / ||v||, with the norm over all axes of v but `axis`.

  Salimans and Kingma 2016, arXiv 1602.07868. The public weights have one g per
  output channel in a convolution (axis 2 of [taps, in, out]), but one per input
  channel in a transposed one (axis 1).

  Args:
    g: [size of `axis`].
    v: any shape.
    axis: the axis with one g per entry.

  Returns:
    Same shape as v.
  """
  others = tuple(i for i in range(v.ndim) if i != axis)
  norm = jnp.sqrt(jnp.sum(v * v, others, keepdims=True))
  return v * (jnp.expand_dims(g, others) / norm)


def kernel_param(
  module: nn.Module,
  norm: str,
  shape: Sequence[int],
  init: Callable,
  *,
  axis: int,
) -> jax.Array:
  """The kernel of a layer, as parameter(s) of its module.

  Args:
    module: the layer, inside its compact `__call__`.
    norm: one of NORMS; "weight" gives the parameters g and v, others "kernel".
    shape: shape of the kernel.
    init: initializer of the kernel, or of v.
    axis: the axis with one g per entry.

  Raises:
    ValueError: an unknown norm.
  """
  if norm not in NORMS:
    raise ValueError(f"norm must be one of {NORMS}, not {norm!r}")
  if norm != "weight":
    return module.param("kernel", init, shape, jnp.float32)
  v = module.param("v", init, shape, jnp.float32)
  others = tuple(i for i in range(v.ndim) if i != axis)
  # g starts as the norm of v, so that the kernel starts as v.
  g = module.param("g", lambda _: jnp.sqrt(jnp.sum(v * v, others)))
  return weight_norm(g, v, axis)


def time_group_norm(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  lengths: jax.Array | None = None,
  epsilon: float = 1e-5,
) -> jax.Array:
  """Normalises each example over time and channels together, in float32.

  This is GroupNorm with one group, as in the 48 kHz EnCodec
  (Défossez et al. 2022, arXiv 2210.13438).

  Args:
    x: [batch, time, channels].
    scale: [channels].
    bias: [channels].
    lengths: [batch] valid steps that the statistics include; None means all.
    epsilon: added to the variance.

  Returns:
    Same shape and dtype as x.
  """
  wide = x.astype(jnp.float32)
  where: Any = None
  count: Any = None
  if lengths is not None:
    where = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]
    count = jnp.maximum(lengths, 1)[:, None, None] * x.shape[2]

  def mean(values: jax.Array) -> jax.Array:
    if where is None:
      return jnp.mean(values, (1, 2), keepdims=True)
    return jnp.sum(jnp.where(where, values, 0), (1, 2), keepdims=True) / count

  wide = wide - mean(wide)
  wide = wide * lax.rsqrt(mean(wide * wide) + epsilon)
  return (wide * scale + bias).astype(x.dtype)


class TimeGroupNorm(nn.Module):
  """`time_group_norm` with learned scale and bias."""

  @nn.compact
  def __call__(
    self, x: jax.Array, lengths: jax.Array | None = None
  ) -> jax.Array:
    """[batch, time, channels] -> the same shape."""
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
    return time_group_norm(x, scale, bias, lengths)
