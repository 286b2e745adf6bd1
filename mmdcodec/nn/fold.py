"""Signals folded into channels, for the narrow layers on TPUs.

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
Spectra [batch, frames, bins, channels] are folded over their bins: always the
axis before the channels.

A layer whose reshapes stand around it alone wins nothing: XLA does not cancel
them against those of the next layer, and on a TPU each is a copy. On CPUs
folding 32 channels costs 1.7 times the time.
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


@flax.struct.dataclass
class Folded:
  """A signal [batch, ..., size, channels], zero after its end.

  The axis before the channels is the folded one: time, or the bins of a
  spectrum. A pytree whose only leaf has the batch first.

  Attributes:
    rows: [batch, ..., ceil(size / factor), factor * channels].
    factor: samples in a row.
    size: samples; the last row may hold more, which are zero.
  """

  rows: jax.Array
  factor: int = flax.struct.field(pytree_node=False)
  size: int = flax.struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, ...]:
    """(batch, ..., size, channels)."""
    *others, _, width = self.rows.shape
    return *others, self.size, width // self.factor

  def astype(self, dtype) -> "Folded":
    """The same in another dtype."""
    return self.replace(rows=self.rows.astype(dtype))

  def first(self, size: int) -> "Folded":
    """The first samples; what the last row holds after them may not be zero."""
    rows = self.rows[..., : -(-size // self.factor), :]
    return self.replace(rows=rows, size=size)

  def mean(self) -> jax.Array:
    """Of all samples and channels."""
    return jnp.sum(self.rows) / math.prod(self.shape)

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
  """Folds [batch, ..., size, channels], or changes by how much it is folded."""
  if isinstance(x, Folded):
    return x if x.factor == factor else fold(unfold(x), factor)
  *others, size, channels = x.shape
  rows = -(-size // factor)
  margins = [(0, 0)] * len(others) + [(0, rows * factor - size), (0, 0)]
  x = jnp.pad(x, margins).reshape(*others, rows, factor * channels)
  return Folded(x, factor, size)


def unfold(x: "jax.Array | Folded") -> jax.Array:
  """[batch, ..., size, channels] again; an array stays as it is."""
  if not isinstance(x, Folded):
    return x
  *others, size, channels = x.shape
  return x.rows.reshape(*others, -1, channels)[..., :size, :]


def refold(x: "jax.Array | Folded", factor: int) -> "jax.Array | Folded":
  """Folded by so much, whatever it was; an array where that is 1."""
  return unfold(x) if factor == 1 else fold(x, factor)


def mask_after(x: Folded, lengths: jax.Array | None) -> Folded:
  """Zeroes x from `lengths` [batch] on, or from its end (None)."""
  *others, rows, width = x.rows.shape
  if lengths is None:
    if rows * x.factor == x.size:
      return x
    lengths = jnp.array([x.size])
  shape = (*(1 for _ in others), rows, width)
  at = lax.broadcasted_iota(jnp.int32, shape, len(others)) * x.factor
  lane = lax.broadcasted_iota(jnp.int32, shape, len(others) + 1)
  at += lane // (width // x.factor)
  ends = lengths.reshape(-1, *(1 for _ in shape[1:]))
  return x.replace(rows=jnp.where(at < ends, x.rows, 0))


def _matrix(shifts: list[int], size: int, kernel: jax.Array, dilation: int = 1):
  """The kernel [..., taps, in, out] shifted: [..., size, in, shifts, out].

  By padding, of which the gradient is a sum of slices.
  """
  span = (kernel.shape[-3] - 1) * dilation + 1
  zero = jnp.zeros((), kernel.dtype)
  others = [(0, 0, 0)] * (kernel.ndim - 3)
  copies = [
    lax.pad(
      kernel,
      zero,
      [
        *others,
        (shift, size - shift - span, dilation - 1),
        (0, 0, 0),
        (0, 0, 0),
      ],
    )
    for shift in shifts
  ]
  return jnp.stack(copies, -2)


def _between_rows(x, matrix, pad: tuple[int, int], others=()):
  """Convolution of rows; `others` as of `conv`."""
  strides, dilations, pads = zip(*others, (1, 1, pad), strict=True)
  return lax.conv_general_dilated(
    x,
    matrix.astype(x.dtype),
    strides,
    pads,
    rhs_dilation=dilations,
    dimension_numbers=LAYOUTS[len(strides)],
  )


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
    kernel: [..., taps, in, out]; it is cast to the dtype of x when it is a
      matrix, so that its gradient is summed in its own dtype.
    stride: samples per frame.
    dilation: step of the taps.
    left: samples before the first one, and zeros after the last.
    mirror: those before mirror the first ones; x must be longer than `left`,
      and have no other axes.
    others: stride, dilation and zeros (before, after) of the axes between the
      batch and the folded one.

  Returns:
    ceil(size / stride) frames, folded by factor / stride; what the last row
    holds after them is not zero.
  """
  taps, _, out = kernel.shape[-3:]
  factor, frames = x.factor, x.factor // stride
  if frames * stride != factor:
    raise ValueError(f"stride {stride} does not divide the factor {factor}")
  before = -(-left // factor)
  reach = (frames - 1) * stride + (taps - 1) * dilation - left
  after = reach // factor
  size = (before + 1 + after) * factor
  shifts = [i * stride - left + before * factor for i in range(frames)]
  matrix = _matrix(shifts, size, kernel, dilation)
  shape = (*kernel.shape[:-3], size // factor, x.rows.shape[-1], frames * out)
  rows = x.rows
  if mirror and left:
    start = unfold(x.replace(rows=rows[:, : left // factor + 1]))
    start = jnp.flip(start[:, 1 : left + 1], 1)
    start = jnp.pad(start, ((0, 0), (before * factor - left, 0), (0, 0)))
    rows = jnp.concatenate([fold(start, factor).rows, rows], 1)
    before = 0
  y = _between_rows(rows, matrix.reshape(shape), (before, after), others)
  return Folded(y, frames, -(-x.size // stride))


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
  return Folded(y, samples, x.size * stride)
