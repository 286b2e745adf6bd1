"""Language models once more, in float64 NumPy; see `references`.

All shapes and options are those of `mmdcodec.models.token_lm`; parameters have
the names that they have in training.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from mmdcodec.nn.transformer import Transformer
from mmdcodec.selftest import references
from mmdcodec.selftest.references import Array, wide

Params = Mapping[str, Any]


def layer_norm(x: Array, params: Params, epsilon: float = 1e-5) -> Array:
  """Mean 0 and variance 1 over the last axis, then scale and bias."""
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt(x.var(-1, keepdims=True) + epsilon)
  return x * wide(params["scale"]) + wide(params["bias"])


def rms_norm(x: Array, params: Params, epsilon: float) -> Array:
  """Mean square 1 over the last axis, then scale."""
  size = np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)
  return x / size * wide(params["scale"])


def gelu(x: Array) -> Array:
  """Computes x times the normal distribution's share below it."""
  return x * (1 + special.erf(x / np.sqrt(2))) / 2


def _split(x: Array, params: Params) -> Array:
  """[batch, tokens, width] -> [batch, tokens, heads, head_dim]."""
  return np.einsum("btw,whd->bthd", x, wide(params["kernel"]))


def _attention(
  x: Array, params: Params, mask: Array, *, states: Array | None = None,
  bias: Any = 0.0, at: Array | None = None,
) -> Array:  # fmt: skip
  """Attention from x to itself after any sinks, or to other states.

  `at` are the tokens' rotary positions.
  """
  other = x if states is None else states
  q, k = _split(x, params["query"]), _split(other, params["key"])
  v = _split(other, params["value"])
  if "query_norm" in params:
    q = rms_norm(q, params["query_norm"], 1e-6)
    k = rms_norm(k, params["key_norm"], 1e-6)
  if at is not None:
    q, k = references.rotate(q, at), references.rotate(k, at)
  if "sink_keys" in params:
    k, v = (
      np.concatenate([np.repeat(wide(params[name])[None], len(y), 0), y], 1)
      for name, y in (("sink_keys", k), ("sink_values", v))
    )
  y = references.attention(q, k, v, mask, bias)
  return np.einsum("bthd,hdw->btw", y, wide(params["out"]["kernel"]))


def transformer(
  model: Any, params: Params, x: Array, valid: Array, states: Any = None,
  states_mask: Any = None, before: int = 0,
) -> Array:  # fmt: skip
  """All blocks and the final norm, over whole sequences.

  Args:
    model: its fields.
    params: its parameters, those of blocks stacked.
    x: [batch, tokens, width].
    valid: bool [batch, tokens].
    states: [batch, length, width] to cross-attend to, or None.
    states_mask: bool [batch, length].
    before: first tokens, which a window does not hide.
  """
  count, at = x.shape[1], np.maximum(np.cumsum(valid, 1) - 1, 0)
  if model.positions == "sinusoidal":
    x = x + references.sinusoids(at, x.shape[2])
  query, key = np.arange(count)[:, None], np.arange(count)
  seen = (key <= query) & valid[:, None]
  if model.window:
    seen &= (query - key < model.window) | (key < before)
  sinks = ((0, 0), (0, 0), (0, 0), (model.sinks, 0))
  seen = np.pad(seen[:, None], sinks, constant_values=True)
  bias: Any = 0.0
  if model.positions == "relative":
    bucket = references.buckets(
      at[:, :, None] - at[:, None], model.buckets, model.max_distance
    )
    found = wide(params["distance_bias"])[bucket]
    bias = np.pad(np.moveaxis(found, -1, 1), sinks)
  for i in range(model.layers):
    block = _layer(params["blocks"], i)
    y = layer_norm(x, block["attention_norm"])
    x = x + _attention(
      y, block["attention"], seen, bias=bias,
      at=at if model.positions == "rotary" else None,
    )  # fmt: skip
    if states is not None:
      y = layer_norm(x, block["cross_norm"])
      x = x + _attention(
        y, block["cross_attention"], states_mask[:, None, None], states=states
      )
    y = layer_norm(x, block["feed_norm"])
    inner = y @ wide(block["inner"]["kernel"])
    if model.activation == "geglu":
      inner = gelu(y @ wide(block["gate"]["kernel"])) * inner
    else:
      inner = gelu(inner)
    x = x + inner @ wide(block["outer"]["kernel"])
  return layer_norm(x, params["norm"])


def _layer(params: Params, i: int) -> dict[str, Any]:
  return {
    name: _layer(part, i) if isinstance(part, Mapping) else part[i]
    for name, part in params.items()
  }


def _summed(table: Any, tokens: Array) -> Array:
  """The vectors of each step's tokens, summed over the codebooks."""
  books = [wide(book)[tokens[..., k]] for k, book in enumerate(table)]
  return np.sum(books, axis=0)


def _joined(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
  """Vectors and masks one after the other."""
  x, mask = zip(*parts, strict=True)
  return np.concatenate(x, 1), np.concatenate(mask, 1)


def _order(model: Any, name: str) -> tuple[int, str]:
  return model.conditions[name].get("order", 0), name


def vectors(table: Any, arrays: Params) -> tuple[Array, Array]:
  """Vectors [batch, frames * codebooks, width] of a condition of tokens."""
  tokens = arrays["tokens"]
  x = np.stack([wide(b)[tokens[..., k]] for k, b in enumerate(table)], 2)
  mask = np.arange(tokens.shape[1]) < arrays["lengths"][:, None]
  x = x * (mask & arrays["given"][:, None])[..., None, None]
  return (
    x.reshape(len(x), -1, x.shape[-1]), np.repeat(mask, len(table), 1)
  )  # fmt: skip


def logits(
  model: Any, params: Params, tokens: Array, targets: Array,
  inputs: Mapping[str, Params],
) -> Array:  # fmt: skip
  """Logits of all steps at once: [batch, steps, codebooks, size].

  Args:
    model: a `TokenLM` whose conditions are tokens.
    params: its parameters.
    tokens: int [batch, steps, codebooks].
    targets: the same of the next step, for a depth transformer.
    inputs: arrays of the conditions by name.
  """
  x = _summed(params["embedding"], tokens)
  valid, before, states, states_mask = np.ones(x.shape[:2], bool), 0, None, None
  parts = [
    vectors(params["conditioner"][f"{name}_embedding"], inputs[name])
    for name in sorted(inputs, key=lambda name: _order(model, name))
  ]
  if parts and model.cross:
    states, states_mask = _joined(parts)
  elif parts:
    before = sum(mask.shape[1] for _, mask in parts)
    x, valid = _joined([*parts, (x, valid)])
  large = Transformer(**model.transformer_fields())
  x = transformer(
    large, params["transformer"], x, valid, states, states_mask, before
  )[:, before:]
  if model.depth is None:
    return np.einsum("bsw,kwv->bskv", x, wide(params["head"]))
  deep, small = params["depth_transformer"], model.make_depth()
  y = np.einsum("bsw,kwd->bskd", x, wide(deep["projection"]))
  for k, book in enumerate(deep["embedding"]):
    y[:, :, k + 1] += wide(book)[targets[..., k]]
  shape = y.shape
  y = y.reshape(-1, *shape[2:])
  y = transformer(
    small.make_transformer(), deep["transformer"], y,
    np.ones(y.shape[:2], bool),
  )  # fmt: skip
  return np.einsum("bskd,kdv->bskv", y.reshape(shape), wide(deep["head"]))
