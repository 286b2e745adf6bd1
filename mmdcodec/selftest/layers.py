"""Checks of convolutions and of the LSTM, forward and backward."""

import functools
from typing import Any

import jax
import numpy as np

from mmdcodec.nn import conv, folded_conv, folding, lstm
from mmdcodec.selftest import references
from mmdcodec.selftest.check import Check, Devices, both_ways, normal, off

# Taps, stride, dilation, causal, reflected.
_KINDS = (
  (7, 1, 9, True, False),
  (8, 4, 1, True, False),
  (10, 5, 1, False, False),
  (7, 1, 1, False, True),
)


def convolutions(devices: Devices) -> dict[str, float]:
  """Strided and dilated ones."""
  x, found = normal(2, 60, 6), {}
  for taps, stride, dilation, causal, reflect in _KINDS:
    kernel = normal(taps, 6, 5, seed=1)
    options: dict[str, Any] = dict(
      stride=stride, dilation=dilation, causal=causal
    )
    mode = "reflect" if reflect else "constant"
    found |= both_ways(
      f"{taps} taps, stride {stride}, dilation {dilation}",
      functools.partial(conv.padded_conv, pad_mode=mode, **options),
      functools.partial(references.conv, reflect=reflect, **options),
      (x, kernel),
    )
  return found


def transposed(devices: Devices) -> dict[str, float]:
  """Polyphase, with kernels that are whole strides and not."""
  x, found = normal(2, 12, 6), {}
  for taps, stride in ((8, 4), (7, 3)):
    found |= both_ways(
      f"{taps} taps, stride {stride}",
      functools.partial(conv.conv_transpose, stride=stride),
      functools.partial(references.conv_transpose, stride=stride),
      (x, normal(taps, 6, 5, seed=1)),
    )
  return found


def folded(devices: Devices) -> dict[str, float]:
  """Signals with time folded into channels, as narrow layers on TPUs."""
  x, down = normal(2, 48, 4), normal(8, 4, 6, seed=1)
  same, up = normal(7, 4, 4, seed=2), normal(8, 6, 4, seed=3)

  def through(function: Any) -> Any:
    return lambda x, *given: folding.unfold(
      function(folding.fold(x, 8), *given)
    )

  def transposed(z: Any, up: Any) -> Any:
    z = folded_conv.conv(z, down, stride=4, left=4)
    return folded_conv.conv_transpose(z, up, stride=4, left=0)

  dilated = functools.partial(folded_conv.conv, dilation=3, left=18)
  strided = functools.partial(folded_conv.conv, stride=4, left=4)
  return {
    **both_ways(
      "dilated",
      through(dilated),
      functools.partial(references.conv, dilation=3),
      (x, same),
    ),
    **both_ways(
      "strided",
      through(strided),
      functools.partial(references.conv, stride=4),
      (x, down),
    ),
    **both_ways(
      "transposed",
      through(transposed),
      lambda x, up: references.conv_transpose(
        references.conv(x, down, stride=4), up, 4
      )[:, : x.shape[1]],
      (x, up),
    ),
  }


def recurrent(devices: Devices) -> dict[str, float]:
  """A scan over time, whole and in two pieces."""
  x, dim = normal(2, 20, 12), 16
  inner, outer = 0.3 * normal(12, 64), 0.3 * normal(dim, 64)
  bias = normal(64)
  run = jax.jit(lambda x, state: lstm.lstm(x, inner, outer, bias, state))
  start: Any = (np.zeros((2, dim), np.float32),) * 2
  _, (_, cell) = run(x, start)
  first, state = run(x[:, :10], start)
  second, _ = run(x[:, 10:], state)
  wanted, last = references.lstm(x, inner, outer, bias)
  return {
    **both_ways(
      "the outputs",
      lambda x, inner, outer, bias: lstm.lstm(
        x, inner, outer, bias, start
      )[0],
      lambda *given: references.lstm(*given)[0],
      (x, inner, outer, bias),
    ),
    "the last cell": off(cell, last),
    "the outputs in pieces": off(np.concatenate([first, second], 1), wanted),
  }


CHECKS = (
  Check("convolution", "equal sums of products in float64", convolutions),
  Check("transposed convolution", "equal its sums in float64", transposed),
  Check("folded convolution", "equal a plain one in float64", folded),
  Check("LSTM", "equal its equations in float64", recurrent),
)
