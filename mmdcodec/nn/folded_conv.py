"""Convolutions of signals with time folded into channels; see `folding`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec.nn.folding import LANES, Folded, fold, unfold

# Dimension numbers of convolutions by number of axes: batch first, channels
# last.
LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}

# Stride, dilation and zeros (before, after) of one axis.
Axis = tuple[int, int, tuple[int, int]]


def _shifted_copies(
  shifts: list[int], size: int, kernel: jax.Array, dilation: int = 1
) -> jax.Array:
  """Shifted copies of a kernel [taps, ..., in, out].

  They are made by padding, whose gradient is a sum of slices.

  Returns:
    [size, ..., in, shifts, out].
  """
  span = (kernel.shape[0] - 1) * dilation + 1
  zero = jnp.zeros((), kernel.dtype)
  none = [(0, 0, 0)] * (kernel.ndim - 1)
  copies = [
    lax.pad(kernel, zero, [(shift, size - shift - span, dilation - 1), *none])
    for shift in shifts
  ]
  return jnp.stack(copies, -2)


def widen(
  x: jax.Array, kernel: jax.Array, pad: tuple[int, int], factor: int
) -> tuple[jax.Array, jax.Array, int]:
  """Rewrites a convolution of stride 1 to compute several outputs at once.

  `factor` neighbours on the last axis become channels of input and output, and
  the kernel becomes block-Toeplitz. It multiplies by zeros, but narrow layers
  leave most of a machine idle anyway.

  Args:
    x: [batch, *sizes, in].
    kernel: [*taps, in, out].
    pad: zeros before and after the last axis.
    factor: number of outputs computed at once.

  Returns:
    x: [batch, ..., blocks, factor * in], padded.
    kernel: [..., taps, factor * in, factor * out].
    size: size of the last axis of the result, after `narrow`.
  """
  taps, size = kernel.shape[-3], x.shape[-2]
  out = size + sum(pad) - taps + 1
  wide = -(-(taps + factor - 1) // factor)
  total = (-(-out // factor) + wide - 1) * factor
  margins = [(0, 0, 0)] * (x.ndim - 2)
  margins.append((pad[0], total - size - pad[0], 0))
  x = lax.pad(x, jnp.zeros((), x.dtype), [*margins, (0, 0, 0)])
  x = x.reshape(*x.shape[:-2], total // factor, -1)
  none = [(0, 0)] * (kernel.ndim - 3)
  shifted = [
    jnp.pad(kernel, [*none, (i, wide * factor - taps - i), (0, 0), (0, 0)])
    for i in range(factor)
  ]
  shape = (*kernel.shape[:-3], wide, x.shape[-1], factor * kernel.shape[-1])
  return x, jnp.stack(shifted, -2).reshape(shape), out


def narrow(x: jax.Array, factor: int, size: int) -> jax.Array:
  """Splits the blocks of a convolution rewritten by `widen`.

  Args:
    x: [..., blocks, factor * out].
    factor: outputs in a block.
    size: number of outputs; the last block may hold more.

  Returns:
    [..., size, out].
  """
  x = x.reshape(*x.shape[:-2], -1, x.shape[-1] // factor)
  return x[..., :size, :]


def _widening(
  matrix: jax.Array, strides: Sequence[int], dilations: Sequence[int]
) -> int:
  """Factor to `widen` a convolution of rows by; 1 except in a first layer.

  The two channels of a spectrum leave most lanes empty even when folded, and
  XLA moves the batch there: the copies are most of the layer's traffic
  (docs/RESULTS.md, "On a TPU, without one"). So bins fill half of the lanes,
  and outputs of whole lanes split without a copy. Filling all lanes would
  double the products once more: with 7 and 9 taps they already double. The
  width of the result is not an input of this layer, so `folding.MAX_WIDTH` does
  not bound it.
  """
  taps, width, out = matrix.shape[-3:]
  plain = strides[-1] == dilations[-1] == 1
  if len(strides) < 2 or not plain or taps == 1 or out % LANES:
    return 1
  return max(1, LANES // 2 // width)


def _between_rows(
  x: jax.Array,
  matrix: jax.Array,
  pad: tuple[int, int],
  others: Sequence[Axis] = (),
) -> jax.Array:
  """Convolution of rows; `others` as in `conv`."""
  strides, dilations, pads = zip((1, 1, pad), *others, strict=True)
  factor = _widening(matrix, strides, dilations)
  if factor > 1:
    x, matrix, size = widen(x, matrix, pads[-1], factor)
    pads = (*pads[:-1], (0, 0))
  # Cast last: the gradient of the shifted copies is summed in its own dtype.
  y = lax.conv_general_dilated(
    x,
    matrix.astype(x.dtype),
    strides,
    pads,
    rhs_dilation=dilations,
    dimension_numbers=LAYOUTS[len(strides)],
  )
  return narrow(y, factor, size) if factor > 1 else y


def conv(
  x: Folded,
  kernel: jax.Array,
  *,
  stride: int = 1,
  dilation: int = 1,
  left: int = 0,
  reflect: bool = False,
  others: Sequence[Axis] = (),
) -> Folded:
  """Convolution y[t] = sum_j x[t * stride + j * dilation - left] @ kernel[j].

  Args:
    x: a signal whose factor is a multiple of the stride.
    kernel: [taps, ..., in, out]. It is cast to the dtype of x after its copies
      are made, so that its gradient is summed in its own dtype.
    stride: samples per frame.
    dilation: step of the taps.
    left: samples of padding before x; zeros follow x.
    reflect: pads before x by reflection instead of zeros. x must be longer
      than `left` and have no axis between time and channels.
    others: stride, dilation and zeros (before, after) of each axis between time
      and channels.

  Returns:
    ceil(time / stride) frames, folded by factor / stride; the rest of the last
    row is not zero.

  Raises:
    ValueError: the stride does not divide the factor, or a signal with more
      axes is to be reflected.
  """
  if reflect and others:
    raise ValueError("only signals [batch, time, channels] can be reflected")
  taps, *_, width, out = kernel.shape
  factor, frames = x.factor, x.factor // stride
  if frames * stride != factor:
    raise ValueError(f"stride {stride} does not divide the factor {factor}")
  before = -(-left // factor)
  reach = (frames - 1) * stride + (taps - 1) * dilation - left
  after = reach // factor
  size = (before + 1 + after) * factor
  shifts = [i * stride - left + before * factor for i in range(frames)]
  matrix = _shifted_copies(shifts, size, kernel, dilation)
  matrix = matrix.reshape(size // factor, factor, *matrix.shape[1:])
  matrix = jnp.moveaxis(matrix, 1, -4)
  matrix = matrix.reshape(*matrix.shape[:-4], factor * width, frames * out)
  rows = x.rows
  if reflect and left:
    start = unfold(x.replace(rows=rows[:, : left // factor + 1]))
    start = jnp.flip(start[:, 1 : left + 1], 1)
    start = jnp.pad(start, ((0, 0), (before * factor - left, 0), (0, 0)))
    rows = jnp.concatenate([fold(start, factor).rows, rows], 1)
    before = 0
  y = _between_rows(rows, matrix, (before, after), others)
  return Folded(y, frames, -(-x.time // stride))


def conv_transpose(
  x: Folded, kernel: jax.Array, *, stride: int, left: int
) -> Folded:
  """Transposed convolution y[stride * t + j - left] += x[t] @ kernel[j].

  Args:
    x: a signal with any factor, including 1.
    kernel: [taps, in, out].
    stride: samples between input frames.
    left: samples to cut at the start.

  Returns:
    time * stride samples, folded by factor * stride; the rest of the last row
    is not zero.
  """
  taps, width, out = kernel.shape
  factor, samples = x.factor, x.factor * stride
  after = (samples - 1 + left) // samples
  before = max(0, taps - 1 - left + stride * (factor - 1)) // samples
  rows = before + 1 + after
  # One matrix of samples per input frame; the last row of x comes first.
  shifts = [samples * after - left + stride * i for i in range(factor)]
  matrix = _shifted_copies(shifts, rows * samples, kernel)
  matrix = matrix.reshape(rows, samples, width, factor, out)[::-1]
  matrix = matrix.transpose(0, 3, 2, 1, 4).reshape(rows, factor * width, -1)
  y = _between_rows(x.rows, matrix, (before, after))
  return Folded(y, samples, x.time * stride)
