"""Signals with time folded into channels, for the narrow layers on TPUs.

A TPU pads the last axis of an array to 128 lanes: 32 channels take the memory
and the traffic of 128. Here `factor` samples that follow each other lie side by
side, and a convolution is one between rows:

  signal  [batch, time, channels] -> [batch, time / factor, factor * channels]
  kernel  [taps, in, out]         -> [rows, factor * in, factor' * out],

a block-Toeplitz matrix: the kernel once for each output of a row, shifted. It
is exactly the same function, with up to `factor` times the multiplications,
most of them by zero, which the matrix unit has to spare. A convolution of
stride s leaves a signal folded by factor / s, a transposed one by factor * s,
so a whole chain of narrow layers runs without a change of layout between them.
Of spectra [batch, frames, bins, channels] the frames are folded: it is always
the axis after the batch. (The first layer takes several bins as well, `widen`,
which narrow layers on CPUs do, too.)

A layer whose reshapes stand around it alone wins nothing: XLA does not cancel
them against those of the next layer, and on a TPU each is a copy, unless whole
lanes are moved. On CPUs folding 32 channels costs 1.7 times the time.
"""

import contextlib
import contextvars
import math
from collections.abc import Sequence

import flax
import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec import platform

# Width to which a TPU pads the last axis.
LANES = 128
# Up to which folding widens a signal: beyond it, multiplications by zero cost
# more than the lanes that they fill.
WIDEST = 512

# Of convolutions over so many axes, batch first and channels last.
LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}

_forced = contextvars.ContextVar("forced", default=None)


@contextlib.contextmanager
def forced(on: bool):
  """Whatever is traced inside folds its narrow layers, or does not."""
  token = _forced.set(on)
  try:
    yield
  finally:
    _forced.reset(token)


def wanted() -> bool:
  """Whether what is traced now should fold: on TPUs.

  What is lowered for another platform than `mmdcodec.platform` finds is to be
  traced under `forced`.
  """
  if _forced.get() is not None:
    return _forced.get()
  return platform.traced_for() == "tpu"


def factors(widths: Sequence[int], strides: Sequence[int]) -> list[int]:
  """By how much to fold the blocks of an encoder; 1 where it would not help.

  Neighbouring narrow blocks form a chain, which is folded by the product of its
  strides: each block takes what the one before leaves, and the last one leaves
  a signal that is not folded.

  Args:
    widths: channels of each block, from the audio to the latents.
    strides: by which each block ends.
  """
  found = [1] * len(widths)
  first = 0
  while first < len(widths):
    end, chain = first, 1
    while end < len(widths) and widths[end] < LANES:
      if end > first and chain * strides[end] * widths[first] > WIDEST:
        break
      chain *= strides[end]
      end += 1
    for i in range(first, end):
      found[i] = math.prod(strides[i:end])
    first = max(end, first + 1)
  return found


def wanted_factors(widths: Sequence[int], strides: Sequence[int]) -> list[int]:
  """`factors` where folding is `wanted`, else 1 for every block."""
  return factors(widths, strides) if wanted() else [1] * len(widths)


def filling(width: int) -> int:
  """By how much to fold so many channels to fill the lanes, a power of two.

  1 where folding is not `wanted`, and where half of the lanes are filled.
  """
  if not wanted() or width > LANES // 2:
    return 1
  return 1 << ((LANES // width).bit_length() - 1)


@flax.struct.dataclass
class Folded:
  """A signal [batch, time, ..., channels], zero after its end.

  A pytree whose only leaf has the batch first.

  Attributes:
    rows: [batch, ceil(time / factor), ..., factor * channels].
    factor: samples in a row.
    time: samples; the last row may hold more, which are zero.
  """

  rows: jax.Array
  factor: int = flax.struct.field(pytree_node=False)
  time: int = flax.struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, ...]:
    """(batch, time, ..., channels)."""
    batch, _, *others, width = self.rows.shape
    return batch, self.time, *others, width // self.factor

  def astype(self, dtype) -> "Folded":
    """The same in another dtype."""
    return self.replace(rows=self.rows.astype(dtype))

  def first(self, time: int) -> "Folded":
    """The first samples; what the last row holds after them may not be zero."""
    rows = self.rows[:, : -(-time // self.factor)]
    return self.replace(rows=rows, time=time)

  def mean(self) -> jax.Array:
    """Of all samples and channels."""
    return jnp.sum(self.rows) / float(math.prod(self.shape))

  def __add__(self, other) -> "Folded":
    """Plus another signal folded alike, or one number per channel."""
    if isinstance(other, Folded):
      return self.replace(rows=self.rows + other.rows)
    return self.replace(rows=self.rows + jnp.tile(other, self.factor))

  def __sub__(self, other: "Folded") -> "Folded":
    """Minus another signal folded alike."""
    return self.replace(rows=self.rows - other.rows)

  def __abs__(self) -> "Folded":
    """Magnitudes."""
    return self.replace(rows=jnp.abs(self.rows))


def fold(x: "jax.Array | Folded", factor: int) -> Folded:
  """Folds [batch, time, ..., channels], or changes by how much it is folded."""
  if isinstance(x, Folded):
    return x if x.factor == factor else fold(unfold(x), factor)
  batch, time, *others, channels = x.shape
  rows = -(-time // factor)
  margins = [(0, 0)] * x.ndim
  margins[1] = (0, rows * factor - time)
  x = jnp.pad(x, margins).reshape(batch, rows, factor, *others, channels)
  x = jnp.moveaxis(x, 2, -2).reshape(batch, rows, *others, factor * channels)
  return Folded(x, factor, time)


def unfold(x: "jax.Array | Folded") -> jax.Array:
  """[batch, time, ..., channels] again; an array stays as it is."""
  if not isinstance(x, Folded):
    return x
  batch, time, *others, channels = x.shape
  y = x.rows.reshape(batch, -1, *others, x.factor, channels)
  y = jnp.moveaxis(y, -2, 2).reshape(batch, -1, *others, channels)
  return y[:, :time]


def refold(x: "jax.Array | Folded", factor: int) -> "jax.Array | Folded":
  """Folded by so much, whatever it was; an array where that is 1."""
  return unfold(x) if factor == 1 else fold(x, factor)


def mask_after(x: Folded, lengths: jax.Array | None) -> Folded:
  """Zeroes x from `lengths` [batch] on, or from its end (None)."""
  _, rows, *others, width = x.rows.shape
  if lengths is None:
    if rows * x.factor == x.time:
      return x
    lengths = jnp.array([x.time])
  shape = (1, rows, *(1 for _ in others), width)
  at = lax.broadcasted_iota(jnp.int32, shape, 1) * x.factor
  lane = lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
  at += lane // (width // x.factor)
  ends = lengths.reshape(-1, *(1 for _ in shape[1:]))
  return x.replace(rows=jnp.where(at < ends, x.rows, 0))


def _matrix(shifts: list[int], size: int, kernel: jax.Array, dilation: int = 1):
  """The kernel [taps, ..., in, out] shifted: [size, ..., in, shifts, out].

  By padding, of which the gradient is a sum of slices.
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
  """The same convolution of stride 1, several outputs of the last axis at once.

  `factor` neighbours on the last axis become channels, of the input and of the
  output, and the kernel a block-Toeplitz one. It computes products with zeros,
  but narrow layers leave most of a machine idle anyway.

  Args:
    x: [batch, *sizes, in].
    kernel: [*taps, in, out].
    pad: zeros before and after the last axis.
    factor: outputs at once.

  Returns:
    x: [batch, ..., blocks, factor * in], padded.
    kernel: [..., taps, factor * in, factor * out].
    size: of the last axis of the result, once `narrow` has taken its blocks
      apart.
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
  """Takes what `widen` led to apart.

  Args:
    x: [..., blocks, factor * out].
    factor: outputs in a block.
    size: outputs; the last block may hold more.

  Returns:
    [..., size, out].
  """
  x = x.reshape(*x.shape[:-2], -1, x.shape[-1] // factor)
  return x[..., :size, :]


def _widening(matrix, strides, dilations) -> int:
  """By how much to `widen` a convolution of rows: 1 but for a first layer.

  A spectrum's two channels leave most lanes empty even when they are folded,
  and XLA puts the batch there: copies to and from that are most of what the
  layer moves (docs/RESULTS.md, "On a TPU, without one"). So half of the lanes
  are filled with bins, and outputs of whole lanes come apart without a copy.
  Half of them, as all would double the products once more: with 7 and 9 taps
  they grow to about twice. The width of the result is nobody's input, so
  `WIDEST` does not bound it.
  """
  taps, width, out = matrix.shape[-3:]
  plain = strides[-1] == dilations[-1] == 1
  if len(strides) < 2 or not plain or taps == 1 or out % LANES:
    return 1
  return max(1, LANES // 2 // width)


def _between_rows(x, matrix, pad: tuple[int, int], others=()):
  """Convolution of rows; `others` as of `conv`."""
  strides, dilations, pads = zip((1, 1, pad), *others, strict=True)
  factor = _widening(matrix, strides, dilations)
  if factor > 1:
    x, matrix, size = widen(x, matrix, pads[-1], factor)
    pads = (*pads[:-1], (0, 0))
  # Cast last: the gradient of shifted copies is to be summed as it is.
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
  mirror: bool = False,
  others: Sequence[tuple[int, int, tuple[int, int]]] = (),
) -> Folded:
  """Convolution y[t] = sum_j x[t * stride + j * dilation - left] @ kernel[j].

  Args:
    x: its factor must be a multiple of the stride.
    kernel: [taps, ..., in, out]; it is cast to the dtype of x when it is a
      matrix, so that its gradient is summed in its own dtype.
    stride: samples per frame.
    dilation: step of the taps.
    left: samples before the first one, and zeros after the last.
    mirror: those before mirror the first ones; x must be longer than `left`,
      and have no axis between time and channels.
    others: stride, dilation and zeros (before, after) of each axis between time
      and channels.

  Returns:
    ceil(time / stride) frames, folded by factor / stride; what the last row
    holds after them is not zero.

  Raises:
    ValueError: the stride does not divide the factor, or a mirror is asked of a
      signal with more axes.
  """
  if mirror and others:
    raise ValueError("only signals [batch, time, channels] have a mirror")
  taps, *_, width, out = kernel.shape
  factor, frames = x.factor, x.factor // stride
  if frames * stride != factor:
    raise ValueError(f"stride {stride} does not divide the factor {factor}")
  before = -(-left // factor)
  reach = (frames - 1) * stride + (taps - 1) * dilation - left
  after = reach // factor
  size = (before + 1 + after) * factor
  shifts = [i * stride - left + before * factor for i in range(frames)]
  matrix = _matrix(shifts, size, kernel, dilation)
  matrix = matrix.reshape(size // factor, factor, *matrix.shape[1:])
  matrix = jnp.moveaxis(matrix, 1, -4)
  matrix = matrix.reshape(*matrix.shape[:-4], factor * width, frames * out)
  rows = x.rows
  if mirror and left:
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
    x: any factor, 1 too.
    kernel: [taps, in, out].
    stride: samples between input frames.
    left: samples to cut at the start.

  Returns:
    time * stride samples, folded by factor * stride; what the last row holds
    after them is not zero.
  """
  taps, width, out = kernel.shape
  factor, samples = x.factor, x.factor * stride
  after = (samples - 1 + left) // samples
  before = max(0, taps - 1 - left + stride * (factor - 1)) // samples
  rows = before + 1 + after
  # One matrix of samples per input frame, the last row of x first.
  shifts = [samples * after - left + stride * i for i in range(factor)]
  matrix = _matrix(shifts, rows * samples, kernel)
  matrix = matrix.reshape(rows, samples, width, factor, out)[::-1]
  matrix = matrix.transpose(0, 3, 2, 1, 4).reshape(rows, factor * width, -1)
  y = _between_rows(x.rows, matrix, (before, after))
  return Folded(y, samples, x.time * stride)
