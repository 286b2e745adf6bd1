"""Convolutions over one or two axes, zero-padded on both sides.

For networks that process whole clips (discriminators), without causality or
lengths. The codecs' convolutions, which have both, are in `mmdcodec.nn.conv`.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmdcodec import bounds, platform
from mmdcodec.bounds import list_of, one_of, whole
from mmdcodec.nn import folded_conv, folding
from mmdcodec.nn.conv import frames
from mmdcodec.nn.norms import kernel_param


def fold_strides(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  pads: Sequence[tuple[int, int]],
) -> tuple[jax.Array, jax.Array, list[tuple[int, int]]]:
  """Rewrites a strided convolution as one of stride 1.

  The samples of a stride become channels, and the taps are padded with zeros.

  Args:
    x: [batch, *sizes, in].
    kernel: [*taps, in, out].
    strides: stride of each axis.
    pads: zeros before and after each axis.

  Returns:
    x: [batch, *blocks, prod(strides) * in]; axes of stride 1 keep their size.
    kernel: [*ceil(taps / strides), prod(strides) * in, out].
    pads: remaining padding; none on axes with a stride.
  """
  taps, rank = kernel.shape[:-2], len(strides)
  blocks = [frames(k, s) for k, s in zip(taps, strides, strict=True)]
  lengths, margins, left = [], [], []
  for i, (size, s) in enumerate(zip(x.shape[1:-1], strides, strict=True)):
    if s == 1:
      lengths.append(size)
      margins.append((0, 0, 0))
      left.append((pads[i][0], pads[i][1]))
      continue
    before, after = pads[i]
    out = (size + before + after - taps[i]) // s + 1
    lengths.append(out + blocks[i] - 1)
    # Negative if the last samples do not fill a stride: they are unused.
    margins.append((before, lengths[i] * s - size - before, 0))
    left.append((0, 0))
  none = (0, 0, 0)
  x = lax.pad(x, jnp.zeros((), x.dtype), [none, *margins, none])
  filling = [
    (0, b * s - k) for b, s, k in zip(blocks, strides, taps, strict=True)
  ]
  kernel = jnp.pad(kernel, [*filling, (0, 0), (0, 0)])

  def split(y: jax.Array, counts: Sequence[int], first: int) -> jax.Array:
    """Splits each axis in two and moves the inner ones before the channels."""
    pairs = [n for pair in zip(counts, strides, strict=True) for n in pair]
    head, tail = y.shape[:first], y.shape[first + rank :]
    y = y.reshape(*head, *pairs, *tail)
    inner = [first + 2 * i + 1 for i in range(rank)]
    return jnp.moveaxis(y, inner, range(first + rank, first + 2 * rank))

  x = split(x, lengths, 1).reshape(x.shape[0], *lengths, -1)
  kernel = split(kernel, blocks, 0).reshape(*blocks, -1, kernel.shape[-1])
  return x, kernel, left


def widening(inputs: int, outputs: int) -> int:
  """Factor by which to widen a layer on CPUs; see `conv_nd`."""
  if outputs > 8 or inputs > 16:
    return 1
  return 4 if inputs <= 4 else 2


def grouped_conv(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: int,
  pad: tuple[int, int],
  groups: int,
) -> jax.Array:
  """Convolution over one axis in groups of channels: a matmul per group.

  Args:
    x: [batch, time, in].
    kernel: [taps, in / groups, out].
    stride: step of the output.
    pad: zeros before and after x.
    groups: number of groups; output channels are in the order of groups.

  Returns:
    [batch, time, out].
  """
  batch, time, width = x.shape
  taps, _, out = kernel.shape
  steps = (time + sum(pad) - taps) // stride + 1
  # The matmul needs groups at the front; each becomes a separate clip.
  x = jnp.moveaxis(x.reshape(batch, time, groups, -1), 2, 0)
  x = x.reshape(groups * batch, time, -1)
  x, kernel, _ = fold_strides(x, kernel, (stride,), (pad,))
  blocks = kernel.shape[0]
  columns = jnp.concatenate([x[:, i : i + steps] for i in range(blocks)], -1)
  columns = columns.reshape(groups, batch * steps, -1)
  matrices = kernel.reshape(columns.shape[-1], groups, -1).swapaxes(0, 1)
  y = (columns @ matrices).reshape(groups, batch, steps, -1)
  return jnp.moveaxis(y, 0, 2).reshape(batch, steps, out)


def _plain_conv(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  dilations: Sequence[int],
  pads: Sequence[tuple[int, int]],
  groups: int = 1,
) -> jax.Array:
  return lax.conv_general_dilated(
    x,
    kernel,
    tuple(strides),
    [(before, after) for before, after in pads],
    rhs_dilation=tuple(dilations),
    dimension_numbers=folded_conv.LAYOUTS[x.ndim - 2],
    feature_group_count=groups,
  )


def _folded_conv(
  x: folding.Folded,
  kernel: jax.Array,
  strides: Sequence[int],
  dilations: Sequence[int],
  pads: Sequence[tuple[int, int]],
  groups: int,
) -> folding.Folded:
  """Convolution of a folded signal; groups share one kernel with zeros."""
  if groups > 1:
    taps, width, out = kernel.shape
    kernel = kernel.reshape(taps, 1, width, groups, out // groups)
    own = jnp.eye(groups, dtype=kernel.dtype)[:, None, :, None]
    kernel = (kernel * own).reshape(taps, groups * width, out)
  (stride, dilation, pad), *others = zip(strides, dilations, pads, strict=True)
  y = folded_conv.conv(
    x, kernel, stride=stride, dilation=dilation, left=pad[0], others=others
  )
  span = (kernel.shape[0] - 1) * dilation + 1
  out = (x.time + sum(pad) - span) // stride + 1
  if out > y.time:
    raise ValueError(f"{out} outputs of {x.time} folded samples, by {stride}")
  return y.first(out)


def conv_nd(
  x: "jax.Array | folding.Folded",
  kernel: jax.Array,
  *,
  strides: Sequence[int],
  dilations: Sequence[int],
  pads: Sequence[tuple[int, int]],
  groups: int = 1,
) -> "jax.Array | folding.Folded":
  """Convolution over the axes between the first and the last.

  A `Folded` signal stays folded (see `mmdcodec.nn.folding`). Arrays on GPUs and
  TPUs use XLA's convolution: on TPUs the forms below take several times the
  memory; GPUs were not measured. On CPUs, strides are folded into
  channels, narrow layers widened, and groups turned into matmuls, which compute
  the same function. Savings on 2 cores, forward and both gradients of 4 x 1 s:

    first 3 x 9 convolution with stride 2 of the STFT discriminator,
    32 channels: 0.29 s by XLA, 0.10 s folded (mostly the input's gradient);
    the same with 8 channels: 0.12 s by XLA, 0.020 s folded, 0.014 s widened
    too (widening gains nothing at 16 channels);
    the four grouped convolutions of MelGAN: 3.7 s by XLA's groups, 0.31 s as
    matmuls (the kernel's gradient).

  Args:
    x: [batch, *sizes, in], or folded over the first of the sizes.
    kernel: [*taps, in / groups, out]; cast to the dtype of x.
    strides: step of the output on each axis.
    dilations: step of the taps on each axis; 1 on strided axes.
    pads: zeros before and after each axis.
    groups: groups of channels that do not mix; over one axis only if folded.

  Returns:
    [batch, *sizes, out], folded if x was.

  Raises:
    ValueError: an axis has both a stride and a dilation; or the stride of a
      folded axis does not divide its factor, or the axis has more outputs than
      ceil(time / stride).
  """
  if any(s > 1 and d > 1 for s, d in zip(strides, dilations, strict=True)):
    raise ValueError("an axis with a stride cannot have a dilation too")
  if isinstance(x, folding.Folded):
    # This casts the kernel after making its copies.
    return _folded_conv(x, kernel, strides, dilations, pads, groups)
  kernel = kernel.astype(x.dtype)
  # No network has groups with a dilation or over two axes.
  rare = groups > 1 and (len(strides) > 1 or dilations[0] > 1)
  if platform.traced_for() != "cpu" or rare:
    return _plain_conv(x, kernel, strides, dilations, pads, groups)
  if groups > 1:
    return grouped_conv(
      x, kernel, stride=strides[0], pad=pads[0], groups=groups
    )
  if max(strides) > 1:
    if kernel.ndim - 2 == kernel.shape[:-2].count(1) and not np.any(pads):
      x = x[(slice(None), *(slice(None, None, step) for step in strides))]
    else:
      x, kernel, pads = fold_strides(x, kernel, strides, pads)
  factor, out = widening(*kernel.shape[-2:]), None
  if factor > 1 and kernel.shape[-3] > 1 and dilations[-1] == 1:
    x, kernel, out = folded_conv.widen(x, kernel, pads[-1], factor)
    pads = [*pads[:-1], (0, 0)]
  y = _plain_conv(x, kernel, (1,) * len(strides), dilations, pads)
  return y if out is None else folded_conv.narrow(y, factor, out)


def leaky_relu(x: Any, slope: float) -> Any:
  """Leaky rectifier of an array or `Folded` signal: slope * x below 0."""
  return jax.tree.map(lambda y: nn.leaky_relu(y, slope), x)


class ConvNd(bounds.Checked, nn.Module):
  """Convolution and bias.

  Kernels are initialised uniformly within 1 / sqrt(fan in), the default of
  PyTorch and so of the published discriminators. Biases start at 0 instead of
  random values, which saves compiling a random number generator per layer.

  Attributes:
    features: output channels.
    taps: kernel size on each axis.
    strides: stride of each axis; () means 1.
    dilations: dilation of each axis; () means 1.
    pads: zeros before and after each axis; () means (taps - 1) * dilation // 2
      on both sides.
    groups: groups of channels that do not mix.
    norm: "weight" or "none".
    dtype: compute dtype; parameters are float32.
  """

  features: Annotated[int, whole(1, 1 << 18)]
  taps: Annotated[tuple[int, ...], list_of(whole(1, 1 << 16), 3)]
  strides: Annotated[tuple[int, ...], list_of(whole(1, 1 << 12), 3, 0)] = ()
  dilations: Annotated[tuple[int, ...], list_of(whole(1, 1 << 12), 3, 0)] = ()
  pads: tuple[tuple[int, int], ...] = ()
  groups: Annotated[int, whole(1, 1 << 18)] = 1
  norm: Annotated[str, one_of(("none", "weight"))] = "weight"
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @nn.compact
  def __call__(self, x: Any) -> Any:
    """Convolves x.

    Args:
      x: array [batch, *sizes, in] or `Folded` signal.

    Returns:
      [batch, *sizes, features], with sizes
      (size + pads - (taps - 1) * dilation - 1) // stride + 1; folded if x was,
      unless the stride is the factor.
    """
    ones = (1,) * len(self.taps)
    dilations = self.dilations or ones
    pads = self.pads or tuple(
      ((taps - 1) * step // 2,) * 2
      for taps, step in zip(self.taps, dilations, strict=True)
    )
    shape = (*self.taps, x.shape[-1] // self.groups, self.features)
    bound = math.prod(shape[:-1]) ** -0.5
    init = lambda key, shape, dtype: jax.random.uniform(
      key, shape, dtype, minval=-bound, maxval=bound
    )
    kernel = kernel_param(self, self.norm, shape, init, axis=len(shape) - 1)
    bias = self.param(
      "bias", nn.initializers.zeros, (self.features,), jnp.float32
    )
    y = conv_nd(
      x.astype(self.dtype),
      kernel,
      strides=self.strides or ones,
      dilations=dilations,
      pads=pads,
      groups=self.groups,
    )
    y = y + bias.astype(self.dtype)
    if not isinstance(y, folding.Folded):
      return y
    y = folding.mask_after(y, None)
    return folding.unfold(y) if y.factor == 1 else y
