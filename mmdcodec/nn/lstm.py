"""A stack of LSTM layers with explicit state.

Gates are in the order input, forget, cell, output (Hochreiter and Schmidhuber
1997, with the forget gate of Gers et al. 2000). Each layer has one bias: public
weights have two, which are always added, so a converter stores their sum.

Reading the recurrent weights bounds the scan over time, so one matmul before it
projects the inputs of all steps. A hand-written gradient that computes the
recurrent weights' gradient in one matmul after the scan took 0.85 to 1.1 times
as long as the automatic one on CPU, which is not worth its code.
"""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mmdcodec import bounds
from mmdcodec.bounds import whole
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
    state: output and cell before the first step, each float32 [batch, dim].

  Returns:
    Outputs [batch, time, dim] in the dtype of x, and the state after the last
    step. Gates and state are float32 for any dtype of x.
  """
  dtype = x.dtype
  gates = (x @ input_kernel.astype(dtype)).astype(jnp.float32) + bias
  recurrent = recurrent_kernel.astype(dtype)

  def step(state: State, gates: jax.Array) -> tuple[State, jax.Array]:
    h, c = state
    gates = gates + (h.astype(dtype) @ recurrent).astype(jnp.float32)
    i, f, g, o = jnp.split(gates, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h.astype(dtype)

  state, y = lax.scan(step, state, gates.swapaxes(0, 1))
  return y.swapaxes(0, 1), state


class LSTMLayer(nn.Module):
  """`lstm` with learned weights.

  Attributes:
    dim: width of output and state.
    dtype: compute dtype of the matmuls.
  """

  dim: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, state: State | None = None
  ) -> tuple[jax.Array, State]:
    """[batch, time, in] -> ([batch, time, dim], state); None starts at zero."""
    dim = self.dim
    bound = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    inner = self.param(
      "input_kernel", bound, (x.shape[-1], 4 * dim), jnp.float32
    )
    recurrent = self.param(
      "recurrent_kernel", bound, (dim, 4 * dim), jnp.float32
    )
    bias = self.param("bias", nn.initializers.zeros, (4 * dim,), jnp.float32)
    if state is None:
      zero = jnp.zeros((x.shape[0], dim), jnp.float32)
      state = (zero, zero)
    return lstm(x.astype(self.dtype), inner, recurrent, bias, state)


class LSTM(bounds.Checked, nn.Module):
  """LSTM layers of equal width, stacked.

  Attributes:
    dim: width of every layer.
    layers: number of layers.
    dtype: compute dtype of the matmuls.
  """

  dim: Annotated[int, whole(1, 1 << 18)]
  layers: Annotated[int, whole(1, 16)] = 1
  dtype: Annotated[Any, bounds.dtype(*bounds.FLOATS)] = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, state: tuple[State, ...] | None = None
  ) -> tuple[jax.Array, tuple[State, ...]]:
    """Runs the stack over x [batch, time, in].

    Args:
      x: [batch, time, in].
      state: one (output, cell) per layer as returned by the previous call, or
        None for zeros.

    Returns:
      (y [batch, time, dim], state). Passing the state from piece to piece gives
      the same outputs as one call with the whole sequence. In a stream, the
      collection STREAM carries the state (see `mmdcodec.nn.conv`).
    """
    bounds.check_shape("x", x, batch=..., time=..., features=...)
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
