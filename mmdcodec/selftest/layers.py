"""Checks of convolutions and of the LSTM."""

from typing import Any

import jax
import numpy as np

from mmdcodec.nn import conv, folded_conv, folding, lstm
from mmdcodec.selftest import references
from mmdcodec.selftest.check import Check, Devices, normal, off

# Taps, stride, dilation, causal, reflected.
_KINDS = (
  (7, 1, 9, True, False),
  (8, 4, 1, True, False),
  (10, 5, 1, False, False),
  (7, 1, 1, False, True),
)


def convolutions(devices: Devices) -> dict[str, float]:
  """Strided and dilated ones, forward and the gradient of the kernel."""
  x, found = normal(2, 60, 6), {}
  for taps, stride, dilation, causal, reflect in _KINDS:
    kernel = normal(taps, 6, 5, seed=1)
    options: dict[str, Any] = dict(
      stride=stride, dilation=dilation, causal=causal
    )
    wanted = references.conv(x, kernel, reflect=reflect, **options)
    weights = normal(*wanted.shape, seed=2)

    def both(
      kernel: jax.Array, options: Any = options, reflect: bool = reflect,
      weights: np.ndarray = weights,
    ) -> Any:  # fmt: skip
      mode = "reflect" if reflect else "constant"
      y = conv.padded_conv(x, kernel, pad_mode=mode, **options)
      return (y * weights).sum(), y

    (_, y), slope = jax.jit(jax.value_and_grad(both, has_aux=True))(kernel)
    name = f"{taps} taps, stride {stride}, dilation {dilation}"
    found[name] = off(y, wanted)
    # Linear in the kernel: the gradient is the output for each unit kernel.
    unit = np.zeros_like(kernel)
    unit[taps // 2, 3, 2] = 1
    one = references.conv(x, unit, reflect=reflect, **options)
    found[f"{name}, its gradient"] = abs(
      float(slope[taps // 2, 3, 2]) - (one * weights).sum()
    ) / float(np.abs(slope).max())
  return found


def transposed(devices: Devices) -> dict[str, float]:
  """Polyphase, with kernels that are whole strides and not."""
  x, found = normal(2, 12, 6), {}
  for taps, stride in ((8, 4), (7, 3)):
    kernel = normal(taps, 6, 5, seed=1)
    y = jax.jit(
      lambda x, kernel, stride=stride: conv.conv_transpose(
        x, kernel, stride=stride
      )
    )(x, kernel)
    wanted = references.conv_transpose(x, kernel, stride)
    found[f"{taps} taps, stride {stride}"] = off(y, wanted)
  return found


def folded(devices: Devices) -> dict[str, float]:
  """Signals with time folded into channels, as narrow layers on TPUs."""
  x, down = normal(2, 48, 4), normal(8, 4, 6, seed=1)
  same, up = normal(7, 4, 4, seed=2), normal(8, 6, 4, seed=3)

  def chain(x: jax.Array) -> Any:
    y = folding.fold(x, 8)
    y = folded_conv.conv(y, same, dilation=3, left=18)
    z = folded_conv.conv(y, down, stride=4, left=4)
    again = folded_conv.conv_transpose(z, up, stride=4, left=0)
    return tuple(folding.unfold(one) for one in (y, z, again))

  found = jax.jit(chain)(x)
  y = references.conv(x, same, dilation=3)
  z = references.conv(y, down, stride=4)
  again = references.conv_transpose(z, up, 4)[:, : y.shape[1]]
  names = ("dilated", "strided", "transposed")
  return {
    name: off(one, wanted)
    for name, one, wanted in zip(names, found, (y, z, again), strict=True)
  }


def recurrent(devices: Devices) -> dict[str, float]:
  """A scan over time, whole and in two pieces."""
  x, dim = normal(2, 20, 12), 16
  inner, outer = 0.3 * normal(12, 64), 0.3 * normal(dim, 64)
  bias = normal(64)
  run = jax.jit(lambda x, state: lstm.lstm(x, inner, outer, bias, state))
  zero = np.zeros((2, dim), np.float32)
  whole, (_, cell) = run(x, (zero, zero))
  first, state = run(x[:, :10], (zero, zero))
  second, _ = run(x[:, 10:], state)
  wanted, last = references.lstm(x, inner, outer, bias)
  return {
    "the outputs": off(whole, wanted),
    "the last cell": off(cell, last),
    "the outputs in pieces": off(np.concatenate([first, second], 1), wanted),
  }


CHECKS = (
  Check("convolution", "equal sums of products in float64", convolutions),
  Check("transposed convolution", "equal its sums in float64", transposed),
  Check("folded convolution", "equal a plain one in float64", folded),
  Check("LSTM", "equal its equations in float64", recurrent),
)
