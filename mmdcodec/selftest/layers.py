"""Checks of convolutions, norms and the LSTM, forward and backward."""

import functools
from typing import Any

import jax
import numpy as np

from mmdcodec.nn import conv, conv_nd, folded_conv, folding, lstm, norms
from mmdcodec.selftest import references
from mmdcodec.selftest.check import Check, Devices, both_ways, normal, off
from mmdcodec.selftest.references import wide

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


# Sizes, taps, channels in and out; options. As in discriminators: groups over
# time, a strided spectrum, one so narrow that CPUs widen it.
_OF_AXES: tuple[tuple[Any, ...], ...] = (
  ((50,), (9,), (8, 12), dict(strides=(4,), pads=((4, 4),), groups=4)),
  (
    (9, 21), (3, 5), (6, 10),
    dict(strides=(1, 2), dilations=(2, 1), pads=((2, 2), (2, 2))),
  ),
  ((7, 20), (3, 5), (2, 4), dict(pads=((1, 1), (2, 2)))),
)  # fmt: skip


def of_axes(devices: Devices) -> dict[str, float]:
  """Over one and two axes, as arrays and folded."""
  found = {}
  for sizes, taps, (inputs, outputs), given in _OF_AXES:
    ones = (1,) * len(sizes)
    options = dict(strides=ones, dilations=ones) | given
    groups = given.get("groups", 1)
    x = normal(2, *sizes, inputs)
    kernel = normal(*taps, inputs // groups, outputs, seed=1)
    plain = functools.partial(conv_nd.conv_nd, **options)
    as_array = lambda x, kernel, plain=plain: plain(x, kernel)
    as_folded = lambda x, kernel, plain=plain: folding.unfold(
      plain(folding.fold(x, 4), kernel)
    )
    for name, way in (("", as_array), (", folded", as_folded)):
      found |= both_ways(
        f"{' x '.join(map(str, taps))} taps{name}",
        way,
        functools.partial(references.conv_nd, **options),
        (x, kernel),
      )
  return found


def normalised(devices: Devices) -> dict[str, float]:
  """Kernels of both kinds of convolution, clips, and vectors."""
  lengths: Any = np.array([11, 8])
  inside = (np.arange(11) < lengths[:, None])[..., None]

  def clips(x: Any, scale: Any, bias: Any) -> np.ndarray:
    x = wide(x)
    held = [row[:n] for row, n in zip(x, lengths, strict=True)]
    mean, variance = (
      np.array([way(part) for part in held])[:, None, None]
      for way in (np.mean, np.var)
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias

  found = {}
  for axis, name in ((2, "outputs"), (1, "inputs")):
    v = normal(5, 4, 6)
    found |= both_ways(
      f"weight norm of {name}",
      functools.partial(norms.weight_norm, axis=axis),
      functools.partial(references.weight_norm, axis=axis),
      (np.abs(normal(v.shape[axis], seed=1)) + 0.5, v),
    )
  return {
    **found,
    **both_ways(
      "clips of different lengths",
      functools.partial(norms.time_group_norm, lengths=lengths),
      clips,
      (normal(2, 11, 6), normal(6, seed=1), normal(6, seed=2)),
      normal(2, 11, 6, seed=9) * inside,
    ),
    **both_ways(
      "vectors",
      norms.unit_vectors,
      lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True),
      (normal(7, 12),),
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
  Check("convolution over axes", "equal sums of products in float64", of_axes),
  Check("norms", "have the sizes of float64", normalised),
  Check("LSTM", "equal its equations in float64", recurrent),
)
