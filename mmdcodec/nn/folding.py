"""Signals with time folded into channels, for the narrow layers on TPUs.

A TPU pads the last axis of an array to 128 lanes: 32 channels take the memory
and the traffic of 128. A folded signal holds `factor` consecutive samples side
by side, and a convolution becomes one between rows (`folded_conv`):

  signal  [batch, time, channels] -> [batch, time / factor, factor * channels]
  kernel  [taps, in, out]         -> [rows, factor * in, factor' * out],

a block-Toeplitz matrix: one shifted copy of the kernel per output of a row. It
computes exactly the same function with up to `factor` times the
multiplications, most of them by zero, for which the matrix unit has capacity. A
convolution of stride s leaves a signal folded by factor / s, a transposed one
by factor * s, so a chain of narrow layers runs without changes of layout.

Spectra [batch, frames, bins, channels] fold their frames: the folded axis is
always the one after the batch. Their first layer also computes several bins at
once (`folded_conv.widen`), as narrow layers on CPUs do.

Folding around a single layer gains nothing: XLA does not cancel its reshapes
against those of the next layer, and on a TPU each is a copy unless whole lanes
move. On CPUs, folding 32 channels takes 1.7 times as long.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec import platform

# Width to which a TPU pads the last axis.
LANES = 128
# Folding widens signals up to this width. Beyond it, multiplications by zero
# cost more than the filled lanes save.
MAX_WIDTH = 512

_forced: contextvars.ContextVar[bool | None] = contextvars.ContextVar(
  "forced", default=None
)


@contextlib.contextmanager
def forced(on: bool) -> Iterator[None]:
  """Forces everything traced inside to fold its narrow layers, or not to."""
  token = _forced.set(on)
  try:
    yield
  finally:
    _forced.reset(token)


def wanted() -> bool:
  """Whether the program being traced should fold: True on TPUs.

  Trace under `forced` to lower for a platform other than the one that
  `mmdcodec.platform.traced_for` finds.
  """
  on = _forced.get()
  if on is not None:
    return on
  return platform.traced_for() == "tpu"


def factors(widths: Sequence[int], strides: Sequence[int]) -> list[int]:
  """Folding factor for each block of an encoder; 1 where it would not help.

  Neighbouring narrow blocks form a chain, folded by the product of its strides:
  each block takes the output of the one before, and the output of the last one
  is not folded.

  Args:
    widths: channels of each block, from the audio to the latents.
    strides: stride at the end of each block.
  """
  found = [1] * len(widths)
  first = 0
  while first < len(widths):
    end, chain = first, 1
    while end < len(widths) and widths[end] < LANES:
      if end > first and chain * strides[end] * widths[first] > MAX_WIDTH:
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
  """The power of two by which to fold `width` channels to fill the lanes.

  1 where folding is not `wanted`, or more than half of the lanes are filled.
  """
  if not wanted() or width > LANES // 2:
    return 1
  return 1 << ((LANES // width).bit_length() - 1)


class Folded(flax.struct.PyTreeNode):
  """A folded signal [batch, time, ..., channels], zero after its end.

  Attributes:
    rows: [batch, ceil(time / factor), ..., factor * channels].
    factor: samples in a row.
    time: number of samples; the rest of the last row is zero.
  """

  rows: jax.Array
  factor: int = flax.struct.field(pytree_node=False)
  time: int = flax.struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, ...]:
    """(batch, time, ..., channels)."""
    batch, _, *others, width = self.rows.shape
    return batch, self.time, *others, width // self.factor

  def astype(self, dtype: Any) -> "Folded":
    """The same signal in another dtype."""
    return self.replace(rows=self.rows.astype(dtype))

  def first(self, time: int) -> "Folded":
    """The first `time` samples; later ones in the last row may not be zero."""
    rows = self.rows[:, : -(-time // self.factor)]
    return self.replace(rows=rows, time=time)

  def mean(self) -> jax.Array:
    """Mean of all samples and channels."""
    return jnp.sum(self.rows) / float(math.prod(self.shape))

  def __add__(self, other: "Folded | jax.Array") -> "Folded":
    """Adds a signal with the same folding, or one number per channel."""
    if isinstance(other, Folded):
      return self.replace(rows=self.rows + other.rows)
    return self.replace(rows=self.rows + jnp.tile(other, self.factor))

  def __sub__(self, other: "Folded") -> "Folded":
    """Subtracts a signal with the same folding."""
    return self.replace(rows=self.rows - other.rows)

  def __abs__(self) -> "Folded":
    """Magnitudes."""
    return self.replace(rows=jnp.abs(self.rows))


def fold(x: "jax.Array | Folded", factor: int) -> Folded:
  """Folds [batch, time, ..., channels], or changes the factor of a signal."""
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
  """Restores [batch, time, ..., channels]; arrays pass unchanged."""
  if not isinstance(x, Folded):
    return x
  batch, time, *others, channels = x.shape
  y = x.rows.reshape(batch, -1, *others, x.factor, channels)
  y = jnp.moveaxis(y, -2, 2).reshape(batch, -1, *others, channels)
  return y[:, :time]


def refold(x: "jax.Array | Folded", factor: int) -> "jax.Array | Folded":
  """Folds x by `factor`, or unfolds it if the factor is 1."""
  return unfold(x) if factor == 1 else fold(x, factor)


def mask_after(x: Folded, lengths: jax.Array | None) -> Folded:
  """Zeroes x after `lengths` [batch], or after its own end (None)."""
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
