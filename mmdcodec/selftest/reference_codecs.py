"""Codecs once more, in float64 NumPy; see `references`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdcodec.selftest.references import Array, conv, conv_transpose, wide


def elu(x: Array) -> Array:
  """x, or exp(x) - 1 where it is negative."""
  return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _layer(x: Array, params: Mapping[str, Any], **options: Any) -> Array:
  return conv(x, params["kernel"], **options) + wide(params["bias"])


def _residuals(x: Array, block: Mapping[str, Any], model: Any) -> Array:
  for i, dilation in enumerate(model.dilations):
    part = block[f"residual_{i}"]
    y = _layer(elu(x), part["conv_0"], dilation=dilation)
    x = x + _layer(elu(y), part["conv_1"])
  return x


def soundstream_latents(model: Any, params: Mapping[str, Any], x: Any) -> Array:
  """Encodes with a causal SoundStream, arXiv 2107.03312, figure 3.

  Args:
    model: the codec's fields.
    params: of its encoder.
    x: [batch, samples, channels].
  """
  x = _layer(wide(x), params["conv_in"])
  for i, ratio in enumerate(reversed(model.ratios)):
    block = params[f"block_{i}"]
    x = _residuals(x, block, model)
    x = _layer(elu(x), block["down"], stride=ratio)
  return _layer(elu(x), params["conv_out"])


def soundstream_audio(model: Any, params: Mapping[str, Any], z: Any) -> Array:
  """Decodes latents [batch, frames, dim] with a causal SoundStream."""
  x = _layer(wide(z), params["conv_in"])
  for i, ratio in enumerate(model.ratios):
    block = params[f"block_{i}"]
    time = x.shape[1] * ratio
    x = conv_transpose(elu(x), block["up"]["kernel"], ratio)[:, :time]
    x = _residuals(x + wide(block["up"]["bias"]), block, model)
  return _layer(elu(x), params["conv_out"])
