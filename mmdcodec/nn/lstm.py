"""A stack of LSTM layers with the state passed in and out.

Gates in the order input, forget, cell, output (Hochreiter and Schmidhuber
1997 with the forget gate of Gers et al. 2000). One bias per layer: public
weights have two, which are always added, so a converter stores their sum.

The scan over time is bound by reading the recurrent weights, so the inputs of
all steps are projected before it in one matmul. A hand-written gradient that
takes the one of the recurrent weights in one matmul after the scan was
measured at 0.85 to 1.1 of the time of the automatic one on CPU: not worth it.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec.nn.conv import STREAM, streaming

State = tuple[jax.Array, jax.Array]


def lstm(
  x: jax.Array,
  input_kernel: jax.Array,
  recurrent_kernel: jax.Array,
  bias: jax.Array,
  state: State,
) -> tuple[jax.Array, State]:
  """One layer over a whole sequence.

  Args:
    x: [batch, time, in].
    input_kernel: [in, 4 * dim].
    recurrent_kernel: [dim, 4 * dim].
    bias: [4 * dim].
    state: output and cell before the first step, each [batch, dim] float32.

  Returns:
    outputs [batch, time, dim] in the dtype of x, and the state after the last
    step. Gates and state are float32 whatever the dtype of x.
  """
  dtype = x.dtype
  gates = (x @ input_kernel.astype(dtype)).astype(jnp.float32) + bias
  recurrent = recurrent_kernel.astype(dtype)

  def step(state, gates):
    h, c = state
    gates = gates + (h.astype(dtype) @ recurrent).astype(jnp.float32)
    i, f, g, o = jnp.split(gates, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h.astype(dtype)

  state, y = lax.scan(step, state, gates.swapaxes(0, 1))
  return y.swapaxes(0, 1), state


class LSTMLayer(nn.Module):
  """One layer; holds input_kernel, recurrent_kernel and bias.

  Attributes:
    dim: width of output and state.
    dtype: dtype of the matmuls.
  """

  dim: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, state: State | None = None):
    """[batch, time, in] -> ([batch, time, dim], state)."""
    dim = self.dim
    bound = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    inner = self.param("input_kernel", bound, (x.shape[-1], 4 * dim))
    recurrent = self.param("recurrent_kernel", bound, (dim, 4 * dim))
    bias = self.param("bias", nn.initializers.zeros, (4 * dim,))
    if state is None:
      zero = jnp.zeros((x.shape[0], dim), jnp.float32)
      state = (zero, zero)
    return lstm(x.astype(self.dtype), inner, recurrent, bias, state)


class LSTM(nn.Module):
  """Layers of equal width, one after the other.

  Attributes:
    dim: width of every layer.
    layers: number of layers.
    dtype: dtype of the matmuls.
  """

  dim: int
  layers: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, state: tuple[State, ...] | None = None):
    """Runs the stack over x [batch, time, in].

    Args:
      x: [batch, time, in].
      state: one (output, cell) per layer as returned by the call before, or
        None for zeros.

    Returns:
      (y [batch, time, dim], state): running a sequence in pieces with the
      state carried gives the same as running it whole. In a stream (see
      `mmdcodec.nn.conv`) it is carried in the collection STREAM.
    """
    if streaming(self):
      zero = lambda: jnp.zeros((x.shape[0], self.dim), jnp.float32)
      carried = self.variable(
        STREAM, "state", lambda: ((zero(), zero()),) * self.layers
      )
      state = carried.value
    states = []
    for i in range(self.layers):
      before = None if state is None else state[i]
      layer = LSTMLayer(self.dim, self.dtype, name=f"layer_{i}")
      x, after = layer(x, before)
      states.append(after)
    if streaming(self):
      carried.value = tuple(states)
    return x, tuple(states)
