"""Attention with biased projections, a scale and rotary positions.

Must catch: a bias or scale that is dropped or applied twice, positions that
rotate only one side, a mask that hides the wrong keys, and merged keys that
ignore the scale.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec import platform
from mmdcodec.nn import attention

BATCH, TOKENS, WIDTH, HEADS, DIM = 2, 5, 12, 3, 4


def random_attention(**fields):
  """A module, random variables (biases too) and an input."""
  module = attention.Attention(
    width=WIDTH, heads=HEADS, kv_heads=HEADS, head_dim=DIM, **fields
  )
  random = np.random.default_rng(0)
  x = random.standard_normal((BATCH, TOKENS, WIDTH)).astype(np.float32)
  positions = jnp.arange(TOKENS)[None]
  start = functools.partial(
    module.init,
    method=lambda m, x, p: m(x, *m.keys_and_values(x, p), positions=p),
  )
  variables = jax.eval_shape(start, jax.random.key(0), x, positions)
  variables = jax.tree.map(
    lambda a: random.standard_normal(a.shape).astype(np.float32), variables
  )
  return module, variables, x, positions


def rotated(x):
  """Rotary positions in float64; x is [batch, tokens, heads, dim]."""
  half = DIM // 2
  rates = 10_000.0 ** (-np.arange(half) / half)
  angles = np.arange(TOKENS)[:, None, None] * rates
  a, b = x[..., :half], x[..., half:]
  cos, sin = np.cos(angles), np.sin(angles)
  return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def reference(params, x, mask, bias, *, scale, rotary):
  """Bidirectional attention in float64."""
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

  def project(name):
    y = np.einsum("btw,whd->bthd", x, params[name]["kernel"])
    return y + params[name].get("bias", 0)

  q, k, v = project("query"), project("key"), project("value")
  if rotary:
    q, k = rotated(q), rotated(k)
  logits = scale * np.einsum("bqhd,bkhd->bhqk", q, k) + bias
  logits = np.where(mask, logits, -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  y = np.einsum("bhqk,bkhd->bqhd", weights, v)
  y = np.einsum("bqhd,hdw->bqw", y, params["out"]["kernel"])
  return y + params["out"].get("bias", 0)


@pytest.mark.parametrize("scale", (None, 1.0))
@pytest.mark.parametrize("rotary", (True, False))
@pytest.mark.parametrize("use_bias", (True, False))
def test_against_a_reference(scale, rotary, use_bias):
  """Biases of projections and logits, the scale, and rotary positions."""
  module, variables, x, positions = random_attention(
    scale=scale, rotary=rotary, use_bias=use_bias
  )
  random = np.random.default_rng(1)
  bias = random.standard_normal((1, HEADS, TOKENS, TOKENS)).astype(np.float32)
  mask = np.ones((BATCH, 1, 1, TOKENS), bool)
  mask[1, ..., 3:] = False
  keys, values = module.apply(variables, x, positions, method="keys_and_values")
  want = reference(
    variables["params"],
    x,
    mask,
    bias,
    scale=DIM**-0.5 if scale is None else scale,
    rotary=rotary,
  )
  merged = attention.merge_heads(keys), attention.merge_heads(values)
  for pair in ((keys, values), merged):
    found = module.apply(
      variables, x, *pair, positions=positions, mask=mask, bias=bias
    )
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  "changes, backend",
  [
    ({}, "cudnn"),
    (dict(capability=7.5), "xla"),  # T4
    (dict(capability=0), "xla"),  # of another maker
    (dict(dim=136), "xla"),
    (dict(capability=9.0, dim=136), "cudnn"),  # H100, H200
    (dict(capability=9.0, dim=264), "xla"),
    (dict(capability=10.0), "cudnn"),  # B200
    (dict(capability=10.0, dim=136), "xla"),
    (dict(dim=36), "xla"),
    (dict(tokens=5), "xla"),
    (dict(dtype=jnp.float32), "xla"),
    (dict(capability=10.3, known=False), "xla"),  # B300, an older cuDNN
  ],
)
def test_where_cudnn_applies(changes, backend, monkeypatch):
  """Catches what cuDNN refuses instead of computing it."""
  case = dict(capability=8.0, dim=128, tokens=6, dtype=jnp.bfloat16, known=True)
  case |= changes
  monkeypatch.setattr(platform, "traced_for", lambda: "gpu")
  monkeypatch.setattr(platform, "cuda_capability", lambda: case["capability"])
  chosen = []

  def compute(*_, implementation, **__):
    if implementation == "cudnn" and not case["known"]:
      raise NotImplementedError  # as JAX does
    chosen.append(implementation)

  monkeypatch.setattr(jax.nn, "dot_product_attention", compute)
  x = jnp.zeros((1, case["tokens"], 2, case["dim"]), case["dtype"])
  attention.attend(x, x, x, causal=True)
  assert chosen == [backend]


def test_there_is_no_cuda_here():
  """Catches an error where there is none to ask."""
  assert platform.cuda_capability() == 0


def test_rotary_attention_asks_for_positions():
  """A forgotten argument must not silently drop the positions."""
  module, variables, x, _ = random_attention(rotary=True)
  with pytest.raises(ValueError, match="positions"):
    module.apply(variables, x, method="keys_and_values")
