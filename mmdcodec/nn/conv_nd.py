"""Convolutions over one or two axes, zero-padded on both sides.

For networks that look at whole clips (discriminators): no causality, no
lengths. The codecs' convolutions, with both, are in `mmdcodec.nn.conv`.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec.nn.conv import weight_norm

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def conv_nd(
  x: jax.Array,
  kernel: jax.Array,
  *,
  strides: Sequence[int],
  dilations: Sequence[int],
  pads: Sequence[tuple[int, int]],
  groups: int = 1,
) -> jax.Array:
  """Convolution over the axes between the first and the last.

  Args:
    x: [batch, *sizes, in].
    kernel: [*taps, in / groups, out].
    strides: of each axis, steps of the output.
    dilations: of each axis, steps of the taps.
    pads: zeros before and after each axis.
    groups: of channels that do not see each other.

  Returns:
    [batch, *sizes, out].
  """
  return lax.conv_general_dilated(
    x,
    kernel,
    tuple(strides),
    [tuple(p) for p in pads],
    rhs_dilation=tuple(dilations),
    dimension_numbers=LAYOUTS[x.ndim - 2],
    feature_group_count=groups,
  )


class ConvNd(nn.Module):
  """Convolution and bias; [batch, *sizes, in] -> [batch, *sizes, features].

  Kernels start uniform within 1 / sqrt(fan in), PyTorch's default, from which
  the published discriminators were trained, and biases at 0 instead of the same
  (a random draw per layer less to compile).

  Attributes:
    features: output channels.
    taps: kernel size on each axis.
    strides: on each axis; () for 1.
    dilations: on each axis; () for 1.
    pads: zeros before and after each axis; () for (taps - 1) * dilation // 2
      on both sides.
    groups: of channels that do not see each other.
    norm: "weight" or "none".
    dtype: of the computation; parameters are float32.
  """

  features: int
  taps: tuple[int, ...]
  strides: tuple[int, ...] = ()
  dilations: tuple[int, ...] = ()
  pads: tuple[tuple[int, int], ...] = ()
  groups: int = 1
  norm: str = "weight"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """Sizes become (size + pads - (taps - 1) * dilation - 1) // stride + 1."""
    ones = (1,) * len(self.taps)
    dilations = self.dilations or ones
    pads = self.pads or tuple(
      ((taps - 1) * step // 2,) * 2
      for taps, step in zip(self.taps, dilations, strict=True)
    )
    shape = (*self.taps, x.shape[-1] // self.groups, self.features)
    bound = math.prod(shape[:-1]) ** -0.5
    init = lambda key, shape: jax.random.uniform(
      key, shape, minval=-bound, maxval=bound
    )
    if self.norm == "weight":
      v = self.param("v", init, shape)
      # g starts as the norm of v, so that the kernel starts as v.
      g = self.param(
        "g", lambda _: jnp.sqrt(jnp.sum(v * v, tuple(range(v.ndim - 1))))
      )
      kernel = weight_norm(g, v, v.ndim - 1)
    else:
      kernel = self.param("kernel", init, shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    y = conv_nd(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      strides=self.strides or ones,
      dilations=dilations,
      pads=pads,
      groups=self.groups,
    )
    return y + bias.astype(self.dtype)
