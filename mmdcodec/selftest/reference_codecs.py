"""Codecs once more, in float64 NumPy; see `references`.

Only the MDCT of spectral codecs is taken as given: it has a check of its own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdcodec.selftest import references
from mmdcodec.selftest.references import Array, conv, conv_transpose, wide

Params = Mapping[str, Any]


def elu(x: Array) -> Array:
  """x, or exp(x) - 1 where it is negative."""
  return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _kernel(params: Params, axis: int) -> Array:
  if "kernel" in params:
    return wide(params["kernel"])
  return references.weight_norm(params["g"], params["v"], axis)


def _layer(x: Array, params: Params, model: Any, **options: Any) -> Array:
  reflect = model.pad_mode == "reflect"
  y = conv(
    x, _kernel(params, 2), causal=model.causal, reflect=reflect, **options
  )
  return y + wide(params["bias"])


def _residuals(x: Array, block: Params, model: Any) -> Array:
  for i, dilation in enumerate(model.dilations):
    part = block[f"residual_{i}"]
    y = _layer(elu(x), part["conv_0"], model, dilation=dilation)
    y = _layer(elu(y), part["conv_1"], model)
    if model.shortcut == "conv":
      x = _layer(x, part["shortcut"], model)
    x = x + y
  return x


def _recurrent(x: Array, params: Params, model: Any) -> Array:
  y = x
  for i in range(model.lstm_layers):
    layer = params["lstm"][f"layer_{i}"]
    y, _ = references.lstm(
      y, layer["input_kernel"], layer["recurrent_kernel"], layer["bias"]
    )
  return x + y if model.lstm_layers else x


def latents(model: Any, params: Params, x: Any) -> Array:
  """Encodes with a causal SoundStream or EnCodec.

  arXiv 2107.03312, figure 3; arXiv 2210.13438, figure 1.

  Args:
    model: the codec's fields.
    params: of its encoder.
    x: [batch, samples, channels].
  """
  x = _layer(wide(x), params["conv_in"], model)
  for i, ratio in enumerate(reversed(model.ratios)):
    block = params[f"block_{i}"]
    x = _residuals(x, block, model)
    x = _layer(elu(x), block["down"], model, stride=ratio)
  return _layer(elu(_recurrent(x, params, model)), params["conv_out"], model)


def audio(model: Any, params: Params, z: Any) -> Array:
  """Decodes latents [batch, frames, dim]; see `latents`."""
  x = _recurrent(_layer(wide(z), params["conv_in"], model), params, model)
  for i, ratio in enumerate(model.ratios):
    block = params[f"block_{i}"]
    time = x.shape[1] * ratio
    x = conv_transpose(elu(x), _kernel(block["up"], 1), ratio)[:, :time]
    x = _residuals(x + wide(block["up"]["bias"]), block, model)
  return _layer(elu(x), params["conv_out"], model)


def _norm(x: Array, params: Params) -> Array:
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * wide(params["scale"]) + wide(params["bias"])


def _dense(x: Array, params: Params) -> Array:
  return x @ wide(params["kernel"]) + wide(params["bias"])


def convnext(x: Any, params: Params, blocks: int) -> Array:
  """Causal ConvNeXt blocks over frames, arXiv 2201.03545, figure 4."""
  x = _norm(_dense(wide(x), params["dense_in"]), params["norm_in"])
  for i in range(blocks):
    block = params[f"block_{i}"]
    taps = wide(block["depthwise"]["kernel"])
    y = np.pad(x, ((0, 0), (len(taps) - 1, 0), (0, 0)))
    count = x.shape[1]
    y = sum(y[:, j : j + count] * tap for j, tap in enumerate(taps))
    y = _dense(_norm(y, block["norm"]), block["expand"])
    inner = np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)
    y = _dense(y * (1 + np.tanh(inner)) / 2, block["reduce"])
    x = x + wide(block["gamma"]) * y
  return _dense(_norm(x, params["norm_out"]), params["dense_out"])


def spectral_latents(
  model: Any, variables: Params, cosines: Any, sines: Any
) -> Array:
  """Encodes the MDCT and the MDST [batch, frames, hop] of mono audio."""
  books, params = variables["codebook"], variables["params"]["encoder"]
  re, im = (
    wide(x) / wide(books["profile"]["magnitude"]) for x in (cosines, sines)
  )
  factor = (re**2 + im**2 + 1e-6) ** ((model.compression - 1) / 2)
  x = np.concatenate([re * factor, im * factor], -1)
  z = convnext(x, params["blocks"], model.encoder_blocks)
  usual = books["encoder"]["norm"]
  return (z - wide(usual["mean"])) / np.sqrt(wide(usual["variance"]) + 1e-6)


def spectral_bins(model: Any, variables: Params, z: Any) -> Array:
  """Decodes latents to the MDCT [batch, frames, hop] of mono audio."""
  params = variables["params"]["decoder"]["blocks"]
  x = convnext(z, params, model.decoder_blocks)
  level, sign = np.split(x, 2, -1)
  bins = 2 * np.exp(np.minimum(level, 7)) * sign
  return bins * wide(variables["codebook"]["profile"]["magnitude"])
