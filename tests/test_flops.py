"""The arithmetic of programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

from mmdcodec.parallel import flops

SIDE = 8
ONE = 2 * SIDE**3  # a product of two matrices


def square(x):
  return x @ x


def in_scan(x):
  return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=5)[0]


def in_condition(x):
  return jax.lax.cond(x[0, 0] > 0, in_scan, square, x)


def in_kernel(x):
  def kernel(x, out):
    out[...] = jnp.dot(x[...], x[...])

  block = pl.BlockSpec((SIDE, SIDE), lambda i: (i, 0))
  return pl.pallas_call(
    kernel,
    grid=(3,),
    in_specs=[block],
    out_specs=block,
    out_shape=jax.ShapeDtypeStruct((3 * SIDE, SIDE), jnp.float32),
    interpret=True,
  )(jnp.tile(x, (3, 1)))


def in_shards(x):
  """Each of four devices multiplies its own two rows."""
  mesh = jax.make_mesh((4,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
  return jax.shard_map(
    lambda rows, x: rows @ x,
    mesh=mesh,
    in_specs=(P("a"), P()),
    out_specs=P("a"),
  )(x, x)


@pytest.mark.parametrize(
  "function,products",
  [
    (square, 1),
    (in_scan, 5),
    (in_condition, 5),
    (in_kernel, 3),
    (in_shards, 1),
    (jax.jit(in_scan), 5),
    (jax.grad(lambda x: in_scan(x).sum()), 15),
    (jax.grad(lambda x: jax.checkpoint(in_scan)(x).sum()), 20),
  ],
)
def test_products_count_as_often_as_they_run(function, products):
  """Catches what XLA's analysis does: the content of a loop counts once."""
  traced = jax.jit(function).trace(jnp.ones((SIDE, SIDE)))
  assert flops.count(traced.jaxpr) == products * ONE


@pytest.mark.parametrize("stride,groups", [(1, 1), (2, 1), (4, 1), (1, 4)])
def test_convolutions_and_their_gradients_count_alike(stride, groups):
  """Catches zeros that are multiplied, and groups that are not."""
  kernel = jnp.ones((4, 16 // groups, 32))

  def loss(x, kernel):
    y = jax.lax.conv_general_dilated(
      x, kernel, (stride,), ((0, 0),), dimension_numbers=("NWC", "WIO", "NWC"),
      feature_group_count=groups,
    )  # fmt: skip
    return y.sum()

  program = jax.jit(jax.grad(loss, argnums=(0, 1)))
  x = jnp.ones((2, 256, 16))
  one = 2 * 2 * ((256 - 4) // stride + 1) * 32 * 4 * 16 / groups
  np.testing.assert_allclose(
    flops.count(program.trace(x, kernel).jaxpr) / one, 3, atol=0.05
  )
