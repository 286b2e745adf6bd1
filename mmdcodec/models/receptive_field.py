"""Computes which inputs the outputs of encoder and decoder depend on.

It uses the layers' kernels, strides and dilations, in exact integers:
going back from the last layer, every layer widens the interval of inputs that
an interval of outputs needs.
"""

import dataclasses
import math

from mmdcodec.models.seanet import Network
from mmdcodec.models.spectral_networks import SpectralNetwork
from mmdcodec.nn.conv import padding, trimming


@dataclasses.dataclass(frozen=True)
class Layer:
  """A convolution; with `up`, a transposed one."""

  kernel: int
  stride: int = 1
  dilation: int = 1
  up: bool = False


def contexts(
  n: Network | SpectralNetwork,
) -> tuple[tuple[int, int], ...]:
  """Whole frames (before, after) a frame that the output of each part needs.

  Args:
    n: the network.

  Returns:
    One pair each for `front` and `back` of the encoder, and of the decoder; of
    a spectral codec, one pair for the encoder and one for the decoder.
  """
  if isinstance(n, SpectralNetwork):
    return n.contexts
  stride = math.prod(n.ratios)
  parts = (*encoder_layers(n), *decoder_layers(n))
  return tuple(
    frames_around(layers, n, step)
    for layers, step in zip(parts, (stride, 1, 1, stride), strict=True)
  )


def encoder_layers(n: Network) -> tuple[list[Layer], list[Layer]]:
  """Convolutions wider than one tap, before and after the LSTM."""
  front = [Layer(n.kernel)]
  for ratio in reversed(n.ratios):
    front += [Layer(n.residual_kernel, dilation=d) for d in n.dilations]
    front.append(Layer(2 * ratio, ratio))
  return front, [Layer(n.last_kernel)]


def decoder_layers(n: Network) -> tuple[list[Layer], list[Layer]]:
  """Convolutions wider than one tap, before and after the LSTM."""
  back = []
  for ratio in n.ratios:
    back.append(Layer(2 * ratio, ratio, up=True))
    back += [Layer(n.residual_kernel, dilation=d) for d in n.dilations]
  return [Layer(n.kernel)], [*back, Layer(n.audio_kernel)]


def inputs_of(
  layers: list[Layer], n: Network, first: int, last: int
) -> tuple[int, int]:
  """First and last input that the outputs `first` to `last` depend on.

  Holds far from both ends of a clip. Output 0 starts at input 0, and inputs
  before that have negative numbers. Mirrored padding counts as part of the
  layer that pads: the samples that it copies are inside the interval too.
  """
  for layer in reversed(layers):
    if layer.up:
      left, _ = trimming(
        layer.kernel, layer.stride, n.causal, n.trim_right_ratio
      )
      first = -(-(first + left - layer.kernel + 1) // layer.stride)
      last = (last + left) // layer.stride
      continue
    left, right = padding(layer.kernel, layer.stride, layer.dilation, n.causal)
    if n.pad_mode == "reflect":
      # Mirroring also fills the last stride.
      left = max(left, right + layer.stride - 1)
    first = first * layer.stride - left
    last = last * layer.stride + layer.stride - 1 + right
  return first, last


def frames_around(
  layers: list[Layer], n: Network, stride: int = 1
) -> tuple[int, int]:
  """Whole frames (before, after) a frame that its output depends on.

  Args:
    layers: layers of a part of encoder or decoder.
    n: the network.
    stride: samples per frame at the input of an encoder or at the output of a
      decoder.
  """
  if any(layer.up for layer in layers):
    first, last = inputs_of(layers, n, 0, stride - 1)
    return max(0, -first), max(0, last)
  first, last = inputs_of(layers, n, 0, 0)
  return -(min(0, first) // stride), max(0, last) // stride


def lead(layers: list[Layer], n: Network, rate: int) -> int:
  """Frames that a causal stream needs before its first frame of output.

  One without mirrored padding. With it, every convolution needs one input more
  than it has taps to the left, because those are mirrored at the start of a
  clip.

  Args:
    layers: the layers in order.
    n: the network.
    rate: inputs of the first layer per frame.
  """
  most = 1
  for layer in layers:
    if layer.up:
      rate *= layer.stride
      continue
    left, _ = padding(layer.kernel, layer.stride, layer.dilation, True)
    if n.pad_mode == "reflect":
      most = max(most, math.ceil((left + 1) / rate))
    rate //= layer.stride
  return most
