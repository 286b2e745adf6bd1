"""Checks of attention in all its forms, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.nn import (
  attention,
  conformer_attention,
  ring,
  sliding,
  splash,
)
from mmdcodec.nn.transformer import Transformer
from mmdcodec.selftest import references
from mmdcodec.selftest.check import Check, Devices, both_ways, normal, off
from mmdcodec.selftest.references import wide


def plain(devices: Devices) -> dict[str, float]:
  """Causal, masked with a bias, and over merged heads."""
  q, k, v = (
    normal(2, 24, heads, 8, seed=i) for i, heads in enumerate((4, 2, 2))
  )
  causal = np.tril(np.ones((24, 24), bool))
  mask = np.random.default_rng(0).random((2, 1, 24, 24)) < 0.6
  mask |= np.eye(24, dtype=bool)
  bias = normal(2, 4, 24, 24, seed=3)
  masked = lambda q, k, v, bias: attention.attend(
    q, k, v, mask=mask, bias=bias
  )
  merged = jax.jit(
    lambda q, k, v: attention.attend(
      q, attention.merge_heads(k), attention.merge_heads(v), mask=mask,
      bias=bias,
    )
  )  # fmt: skip
  return {
    **both_ways(
      "causal",
      functools.partial(attention.attend, causal=True),
      functools.partial(references.attention, mask=causal),
      (q, k, v),
    ),
    **both_ways(
      "masked",
      masked,
      lambda q, k, v, bias: references.attention(q, k, v, mask, bias),
      (q, k, v, bias),
    ),
    "merged": off(
      merged(q, k, v), references.attention(q, k, v, mask, bias)
    ),
  }


def halved(devices: Devices) -> dict[str, float]:
  """In bfloat16, which GPUs compute by a kernel of their own."""
  # What bfloat16 rounds is none of the kernel's error.
  q, k, v = (
    np.asarray(jnp.bfloat16(normal(2, 24, heads, 64, seed=i)), np.float32)
    for i, heads in enumerate((4, 2, 2))
  )

  def attend(*given: jax.Array) -> jax.Array:
    q, k, v = (x.astype(jnp.bfloat16) for x in given)
    return attention.attend(q, k, v, causal=True).astype(jnp.float32)

  mask = np.tril(np.ones((24, 24), bool))
  return both_ways(
    "causal",
    attend,
    functools.partial(references.attention, mask=mask),
    (q, k, v),
  )


def window(devices: Devices) -> dict[str, float]:
  """Over a sliding window, with sinks and a prefix."""
  count, size, before, sinks = 37, 8, 3, 2
  q = normal(2, count, 4, 8)
  k, v = (normal(2, sinks + count, 2, 8, seed=i) for i in (1, 2))
  valid = np.ones((2, count), bool)
  valid[1, 0] = False
  band = sliding.Band(
    jnp.asarray(valid), window=size, before=before, sinks=sinks
  )
  at, key = np.arange(count)[:, None], np.arange(count)
  seen = (key <= at) & ((at - key < size) | (key < before))
  seen = np.pad(seen, ((0, 0), (sinks, 0)), constant_values=True)[None, None]
  held = np.pad(valid, ((0, 0), (sinks, 0)), constant_values=True)
  # The token that is not valid sees what it likes.
  weights = normal(*q.shape, seed=9)
  weights[1, 0] = 0
  return both_ways(
    "all tokens",
    lambda q, k, v: sliding.attend(q, k, v, band),
    functools.partial(references.attention, mask=seen & held[:, None, None]),
    (q, k, v),
    weights,
  )


def pieces(devices: Devices) -> dict[str, float]:
  """The same window over pieces of a clip, whose keys a ring of slots keeps."""
  count, size, before, sinks = 24, 6, 3, 2
  model = Transformer(
    layers=1, width=16, heads=2, kv_heads=2, hidden=16, positions="none",
    window=size, sinks=sinks,
  )  # fmt: skip
  q, k = (normal(1, count, 2, 8, seed=i) for i in range(2))
  sunk = normal(1, sinks, 2, 8, seed=2)
  slots = ring.slots(model, count, before)
  held = jnp.zeros((1, slots, 2, 8)).at[:, :sinks].set(sunk)
  valid = jnp.ones((1, count), bool)

  @jax.jit
  def extend(
    held: jax.Array, at: jax.Array, q: jax.Array, k: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    plan = ring.plan(model, slots, before, at, q.shape[1], valid, None)
    if plan.sources is None:
      seen = held = jax.lax.dynamic_update_slice(held, k, (0, plan.slot, 0, 0))
    else:
      seen, held = ring.store(held, k, plan.sources)
    return attention.attend(q, seen, seen, mask=plan.mask), held

  found, at = [], 0
  for length in (4, 5, 1, 1, 2, 8, 1, 2):
    new = slice(at, at + length)
    y, held = extend(held, jnp.int32(at), q[:, new], k[:, new])
    found.append(y)
    at += length
  row, key = np.arange(count)[:, None], np.arange(count)
  seen = (key <= row) & ((row - key < size) | (key < before))
  seen = np.pad(seen, ((0, 0), (sinks, 0)), constant_values=True)
  every = np.concatenate([sunk, k], 1)
  wanted = references.attention(q, every, every, seen)
  return {"all tokens": off(np.concatenate(found, 1), wanted)}


def tiled(devices: Devices) -> dict[str, float]:
  """The kernel of TPUs; in Pallas's interpreter on CPUs."""
  if devices.tested.platform == "gpu":
    return {}
  count = 640  # Two tiles a side.
  q, k, v = (
    normal(1, count, heads, 128, seed=i) for i, heads in enumerate((2, 1, 1))
  )
  interpret = devices.tested.platform == "cpu"
  mask = np.tril(np.ones((count, count), bool))
  return both_ways(
    "causal",
    functools.partial(splash.attend, interpret=interpret),
    functools.partial(references.attention, mask=mask),
    (q, k, v),
  )


def conformer(devices: Devices) -> dict[str, float]:
  """Relative positions, to a whole clip and within chunks."""
  width, heads, count, left, right = 16, 2, 22, 5, 3
  x, valid = normal(2, count, width), np.ones((2, count), bool)
  valid[1, -4:] = False
  found = {}
  for chunk in (0, 8):
    layer = conformer_attention.SelfAttention(
      heads, "relative_key", left, right, jnp.float32, chunk
    )
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x, valid)["params"]
    params = {
      name: {
        part: 0.5 * normal(*leaf.shape, seed=len(part))
        for part, leaf in group.items()
      }
      for name, group in shapes.items()
      if name != "distances"
    }
    table = normal(*shapes["distances"].shape, seed=4)
    y = jax.jit(layer.apply)(
      {"params": {**params, "distances": table}}, x, valid
    )
    found[f"chunks of {chunk}" if chunk else "whole"] = off(
      np.asarray(y)[valid],
      _conformer(params, table, x, valid, left, right, chunk)[valid],
    )
  return found


def _conformer(
  params: dict, table: np.ndarray, x: np.ndarray, valid: np.ndarray,
  left: int, right: int, chunk: int,
) -> np.ndarray:  # fmt: skip
  """The same in float64."""
  count = x.shape[1]
  h = wide(x)
  h = (h - h.mean(-1, keepdims=True)) / np.sqrt(
    h.var(-1, keepdims=True) + 1e-5
  )
  norm = params["norm"]
  h = h * norm["scale"] + norm["bias"]
  q, k, v = (
    np.einsum("btw,whd->bthd", h, wide(params[name]["kernel"]))
    + params[name]["bias"]
    for name in ("query", "key", "value")
  )
  at, key = np.arange(count)[:, None], np.arange(count)
  distance = np.clip(key - at, -left, right) + left
  bias = np.einsum("bqhd,qkd->bhqk", q, wide(table)[distance])
  seen = valid[:, None, None]
  if chunk:
    seen = seen & ((at // chunk - key // chunk) >= 0)
    seen = seen & ((at // chunk - key // chunk) <= 1)
  y = references.attention(q, k, v, seen, bias / np.sqrt(q.shape[-1]))
  out = params["out"]
  return (
    np.einsum("bthd,hdw->btw", y, wide(out["kernel"])) + out["bias"]
  )


_SUMS = "equal softmax-weighted sums in float64"
CHECKS = (
  Check("attention", _SUMS, plain),
  Check("attention, bfloat16", _SUMS, halved, 2e-2),
  Check("sliding attention", _SUMS, window),
  Check("sliding attention, cached", _SUMS, pieces),
  Check("splash attention", _SUMS, tiled),
  Check("conformer attention", _SUMS, conformer),
)
