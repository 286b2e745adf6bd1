"""Dense layers for a few rows: kernels are stored [outputs, inputs].

A step of decoding multiplies a few rows (the sequences of a batch) by every
kernel, so it takes the time of reading the kernels from memory. XLA's CPU
backend packs the right factor of a product into tiles first. If that is the
kernel, it is read, written and read again: 2 to 16 rows times [1024, 4096] ran
at 7 to 9 GB/s. With the kernel as the left factor, contracted along its
contiguous axis, only the rows are packed: 14 to 18 GB/s, and 21 instead of 11
for one row times [4096, 1024]. From 256 rows on, both take the same time.

For GPUs this order was chosen without a measurement: XLA computes one row as
sums along the contiguous axis, one of its fastest loops, and Hopper's tensor
cores take both factors of a TF32 product along the contracted axis only.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec import platform


def turn(kernel: jax.Array, inputs: int = 1) -> jax.Array:
  """Converts a kernel of `nn.DenseGeneral` to [outputs, inputs].

  Args:
    kernel: [*inputs, *outputs].
    inputs: number of axes of its inputs.
  """
  size = math.prod(kernel.shape[:inputs])
  return kernel.reshape(size, -1).T


def product(
  x: jax.Array, kernel: jax.Array, preferred: Any = None
) -> jax.Array:
  """Multiplies rows by a turned kernel: [..., inputs] -> [..., outputs].

  Args:
    x: [..., inputs].
    kernel: [outputs, inputs].
    preferred: dtype of the result; None means that of the factors.
  """
  rows = x.reshape(-1, x.shape[-1])
  multiply = functools.partial(
    jax.lax.dot_general,
    dimension_numbers=(((1,), (1,)), ((), ())),
    preferred_element_type=preferred,
  )
  if platform.traced_for() == "cpu":
    # Otherwise XLA merges product and transposition into rows times kernel.
    y = jax.lax.optimization_barrier(multiply(kernel, rows)).T
  else:
    y = multiply(rows, kernel)
  return y.reshape(*x.shape[:-1], -1)


class TurnedDense(nn.Module):
  """A dense layer without bias, whose kernel is [outputs, inputs].

  Attributes:
    features: shape of the output of each row.
    inputs: number of axes of the input of each row.
    dtype: compute dtype.
  """

  features: Sequence[int]
  inputs: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies the layer."""
    before = x.shape[: -self.inputs]
    x = x.reshape(*before, -1)
    shape = (math.prod(self.features), x.shape[-1])
    kernel = self.param("kernel", nn.initializers.zeros, shape, jnp.float32)
    kernel = jnp.asarray(kernel, self.dtype)
    y = product(x.astype(self.dtype), kernel)
    return y.reshape(*before, *self.features)
