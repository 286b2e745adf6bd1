"""Splash attention, interpreted, against attention by plain XLA."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec import platform
from mmdcodec.nn import attention, splash
from mmdcodec.parallel import mesh as mesh_lib


def random_inputs(batch, length, heads, kv_heads, head_dim):
  """Queries, keys, values, and weights of a sum of what comes out."""
  random = np.random.default_rng(length)
  shape = lambda heads: (batch, length, heads, head_dim)
  return [
    random.standard_normal(shape(n)).astype("f4")
    for n in (heads, kv_heads, kv_heads, heads)
  ]


def value_and_gradients(attend, q, k, v, weights):
  """What comes out, and the gradients of a weighted sum of it."""

  def loss(q, k, v):
    y = attend(q, k, v)
    return (y.astype("f4") * weights).sum(), y

  take = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
  (_, y), gradients = jax.jit(take)(q, k, v)
  return y, *gradients


interpreted = functools.partial(splash.attend, interpret=True)
plain = functools.partial(jax.nn.dot_product_attention, is_causal=True)


def assert_same(found, expected, tolerance):
  for one, other in zip(found, expected, strict=True):
    assert one.dtype == other.dtype
    one, other = np.float32(one), np.float32(other)
    np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize(
  "sizes",
  [
    # Padding, groups of keys that are not the queries' heads in order.
    (2, 300, 4, 2, 16),
    # Three tiles a side, of which three of nine are left out.
    (1, 1025, 2, 1, 64),
    (1, 128, 1, 1, 128),
  ],
)
def test_against_plain_attention(sizes):
  """Catches a lost scale, keys after the query, padding seen, mixed heads."""
  inputs = random_inputs(*sizes)
  found = value_and_gradients(interpreted, *inputs)
  expected = value_and_gradients(plain, *inputs)
  assert_same(found, expected, 2e-6)


def test_bfloat16():
  """Catches sums that are not float32, and gradients of another type."""
  inputs = random_inputs(1, 300, 2, 2, 16)
  rounded = [jnp.bfloat16(x) for x in inputs[:3]]
  found = value_and_gradients(interpreted, *rounded, inputs[3])
  exact = [np.float32(x) for x in rounded]
  expected = value_and_gradients(plain, *exact, inputs[3])
  expected = [x.astype("bfloat16") for x in expected]
  assert_same(found, expected, 2e-2)


@pytest.mark.parametrize(
  "heads, kv_heads, shape",
  [
    (4, 2, dict(data=2, fsdp=2, model=2)),
    # Three heads of keys can't be cut in two.
    (6, 3, dict(data=4, fsdp=1, model=2)),
  ],
)
def test_on_a_mesh(heads, kv_heads, shape):
  """Catches parts that do not belong together, and gradients summed twice."""
  inputs = random_inputs(4, 130, heads, kv_heads, 8)
  expected = value_and_gradients(plain, *inputs)
  with jax.set_mesh(mesh_lib.make_mesh(shape)):
    found = value_and_gradients(interpreted, *inputs)
  assert_same(found, expected, 2e-6)


def test_each_device_takes_its_part():
  """Catches attention that every device computes for all items and heads."""
  q, k, v, _ = random_inputs(4, 130, 4, 2, 8)
  mesh = mesh_lib.make_mesh(dict(data=2, fsdp=2, model=2))
  with jax.set_mesh(mesh):
    y = jax.jit(interpreted)(q, k, v)
  assert y.sharding.shard_shape(y.shape) == (1, 130, 2, 8)


def test_where_it_is_used(monkeypatch):
  """Catches attention that is never splash on TPUs, or is where it must not."""
  met = []

  def fake(q, k, v, *, scale):
    met.append((q.shape, scale))
    return q

  def trace(queries, keys, **how):
    shape = lambda count: jax.ShapeDtypeStruct((1, count, 1, 8), "float32")
    call = functools.partial(attention.attend, **how)
    jax.eval_shape(call, shape(queries), shape(keys), shape(keys))

  monkeypatch.setattr(splash, "attend", fake)
  monkeypatch.setattr(platform, "traced_for", lambda: "tpu")
  trace(1503, 1503, causal=True, scale=0.5)
  assert met == [((1, 1503, 1, 8), 0.5)]
  trace(500, 500, causal=True)
  trace(1503, 128)
  trace(1503, 1503, causal=True, mask=np.ones((1, 1, 1, 1503), bool))
  trace(1503, 1503, causal=True, bias=np.ones((1, 1, 1, 1503), "f4"))
  monkeypatch.setattr(platform, "traced_for", lambda: "cpu")
  trace(1503, 1503, causal=True)
  assert len(met) == 1
