"""Checks of language models with random weights, against float64 NumPy.

Drawing computes step by step with a cache, training all steps at once; both
have to agree with the same reference.
"""

import functools
from typing import Any

import jax
import numpy as np

from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.generation.token_sampler import TokenSampler
from mmdcodec.models import token_lm
from mmdcodec.nn import cache as cache_lib
from mmdcodec.nn.transformer import Transformer
from mmdcodec.selftest import reference_lm
from mmdcodec.selftest.check import (
  Check,
  Devices,
  as_users,
  both_ways,
  normal,
  off,
)
from mmdcodec.selftest.families import filled
from mmdcodec.selftest.references import wide

# Of a dozen layers, relative to the largest number.
_DEEP = 1e-4
_FRAMES = 12
# A condition, and what it is for two items.
_PIECE = {"piece": dict(kind="tokens", codebooks=2, size=8, frames=3)}
_GIVEN = {
  "piece": dict(
    tokens=np.arange(12).reshape(2, 3, 2) % 8,
    lengths=np.array([3, 2]),
    given=np.array([True, True]),
  )
}
# Fields of small language models: each part is in one of them.
_LMS: dict[str, dict[str, Any]] = {
  "heads": dict(conditions=_PIECE, cross=True),
  "depth": dict(
    depth={"layers": 1}, positions="relative", activation="geglu",
    qk_norm=True, conditions={}, cross=False,
  ),
  "window": dict(
    window=6, sinks=2, positions="rotary", kv_heads=1, conditions=_PIECE,
    cross=False,
  ),
}  # fmt: skip


def _model(kind: str) -> tuple[token_lm.TokenLM, dict[str, Any], Any]:
  """A model, its parameters, and the arrays of its conditions."""
  model = token_lm.from_config(token_lm.preset("tiny", **_LMS[kind]))
  params = filled(token_lm.shapes(model)["params"], 0.2)
  return model, params, _GIVEN if model.conditions else {}


def drawing(kind: str, devices: Devices) -> dict[str, float]:
  """Greedy codes: by how much another one was likelier."""
  model, params, inputs = _model(kind)
  sampler = TokenSampler(model, params)
  state = sampler.start(
    np.full((2, _FRAMES, model.codebooks), -1, np.int32),
    jax.random.split(jax.random.key(0), 2),
  )
  options = SamplingOptions(temperature=0.0, guidance=1.0)
  window = sampler.next_window(state, None if model.window else _FRAMES - 1)
  assert window is not None
  with as_users():
    *_, state = sampler.sample_window(state, window, inputs, options)
  pattern = model.pattern_of(_FRAMES)
  codes: Any = state.codes
  tokens = np.asarray(pattern.build(codes, model.special))
  logits = reference_lm.logits(
    model, params, tokens[:, :-1], tokens[:, 1:], inputs
  )
  # [batch, frames, codebooks, size]
  logits = np.stack(
    [logits[:, pattern.step_of[:, k] - 1, k] for k in range(model.codebooks)],
    2,
  )
  chosen = np.take_along_axis(logits, state.codes[..., None], -1)[..., 0]
  missed = logits.max(-1) - chosen
  return {"step by step": float(missed.max() / np.ptp(logits))}


def cached(kind: str, devices: Devices) -> dict[str, float]:
  """The Transformer over pieces of a sequence, with both forms of its cache."""
  model, params, inputs = _model(kind)
  inner, own = Transformer(**model.transformer_fields()), params["transformer"]
  count, before = 16, 0 if model.cross else 4
  x, valid = normal(2, count, model.width), np.ones((2, count), bool)
  # A hole in the prefix.
  valid[1, 1] = model.cross
  at: Any = np.maximum(np.cumsum(valid, 1) - 1, 0)
  states = normal(2, 5, model.width, seed=1) if model.cross else None
  mask = np.arange(5) < np.array([[5], [3]])
  wanted = reference_lm.transformer(
    inner, own, wide(x), valid, states, mask, before
  )
  found = {}
  for name, form in (
    ("stacked", own), ("by block", cache_lib.by_block(own, model.layers))
  ):  # fmt: skip
    cross = None
    if states is not None:
      cross = jax.jit(functools.partial(cache_lib.cross_keys, inner))(
        form, states, mask
      )
    extend = jax.jit(functools.partial(cache_lib.extend, inner))
    cache = cache_lib.empty(inner, form, 2, count, before)
    parts, start = [], 0
    for length in (5, 1, 1, 5, 1, 1, 1, 1):
      new = slice(start, start + length)
      y, cache = extend(
        form, x[:, new], cache, np.int32(start), at[:, new], valid, at, cross
      )
      parts.append(np.asarray(y))
      start += length
    y = np.concatenate(parts, 1)
    found[name] = off(y[valid], wanted[valid])
  return found


def training(kind: str, devices: Devices) -> dict[str, float]:
  """Logits of all steps at once, and the gradients of all parameters."""
  model, params, inputs = _model(kind)
  random = np.random.default_rng(0)
  shape = (2, _FRAMES + 1, model.codebooks)
  tokens = random.integers(0, model.special + 1, shape)
  seen, targets = tokens[:, :-1], tokens[:, 1:]
  leaves, tree = jax.tree.flatten(params)

  def found(*leaves: Any) -> Any:
    variables = {"params": jax.tree.unflatten(tree, leaves)}
    return model.apply(variables, seen, inputs, targets=targets)

  def wanted(*leaves: Any) -> np.ndarray:
    return reference_lm.logits(
      model, jax.tree.unflatten(tree, leaves), seen, targets, inputs
    )

  return both_ways("all steps at once", found, wanted, leaves)


def stage(name: str, devices: Devices) -> dict[str, float]:
  """Logits of a stage of MusicLM, after all its conditions."""
  model = token_lm.from_config(token_lm.preset(f"musiclm_{name}_tiny"))
  params = filled(token_lm.shapes(model)["params"], 0.2)
  random, inputs = np.random.default_rng(0), {}
  for each in model.make_conditions():
    (frames, books), _ = each.shapes()["tokens"]
    size = model.conditions[each.name]["size"]
    inputs[each.name] = dict(
      tokens=random.integers(0, size, (2, frames, books)),
      lengths=np.array([frames, (frames + 1) // 2]),
      given=np.array([True, each.name == "joint"]),
    )
  pattern = model.pattern_of(6)
  codes: Any = random.integers(0, model.codebook_size, (2, 6, model.codebooks))
  tokens = np.asarray(pattern.build(codes, model.special))
  found = jax.jit(model.apply)({"params": params}, tokens, inputs)
  return {
    "logits": off(
      found, reference_lm.logits(model, params, tokens, tokens, inputs)
    )
  }


CHECKS = tuple(
  Check(
    f"language model, {kind}, {name}",
    expected,
    functools.partial(measure, kind),
    _DEEP,
  )
  for kind in _LMS
  for name, expected, measure in (
    ("drawing", "draw the likeliest codes of float64", drawing),
    ("cached", "compute pieces of a sequence as in float64", cached),
    ("training", "have the logits and gradients of float64", training),
  )
  # A depth transformer changes nothing before it.
  if (kind, name) != ("depth", "cached")
) + tuple(
  Check(
    f"MusicLM, {name} stage",
    "have the logits of float64",
    functools.partial(stage, name),
    _DEEP,
  )
  for name in ("semantic", "coarse", "fine")
)
