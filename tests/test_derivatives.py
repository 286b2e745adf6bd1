"""Where the losses over the rows of a batch have derivatives, and where not.

Defects that these tests must catch: errors of JAX about a loop inside where one
sentence belongs, and losses of the rows of one device instead of the batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from small_quantizer import small

from mmdcodec import UserError
from mmdcodec.losses import balancer, triplet
from mmdcodec.quantize import gumbel, independence

KEY = jax.random.key(0)
ROWS = jax.random.normal(KEY, (2, 4, 2, 3))
LOSSES = {
  "mmd": lambda s: independence.independence_loss(s, KEY, block_size=8),
  "dhsic": lambda s: independence.independence_loss(
    s, KEY, estimator="dhsic", block_size=8
  ),
  "mmd2": lambda s: independence.mmd2(s[0, :, 0], s[1, :, 1], block_size=4),
}


@pytest.mark.parametrize("name", LOSSES)
def test_forward_mode(name):
  """Catches a directional derivative that the gradient does not have."""
  loss = LOSSES[name]
  direction = jnp.cos(jnp.arange(ROWS.size)).reshape(ROWS.shape)
  _, change = jax.jit(lambda s: jax.jvp(loss, (s,), (direction,)))(ROWS)
  gradient = jax.jit(jax.grad(loss))(ROWS)
  np.testing.assert_allclose(change, jnp.vdot(gradient, direction), rtol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives(name):
  """Catches JAX's error about a loop that the user has never heard of."""
  loss = LOSSES[name]
  if name == "mmd2":  # a whole Hessian takes seconds to trace
    shape = jax.eval_shape(jax.hessian(loss), ROWS).shape
    assert shape == ROWS.shape * 2
  along = lambda s: jax.jvp(jax.grad(loss), (s,), (s,))[1]
  assert jax.eval_shape(along, ROWS).shape == ROWS.shape
  norm = lambda s: jnp.sum(jax.grad(loss)(s) ** 2)
  with pytest.raises(UserError, match=r"independence_loss.*jax\.hessian"):
    jax.eval_shape(jax.grad(norm), ROWS)


def test_second_derivatives_of_kernels():
  """Catches an assertion inside Pallas, for sizes for which it is used."""
  rows = jax.ShapeDtypeStruct((2, 64, 2, 8), jnp.float32)
  loss = lambda s: independence.independence_loss(s, KEY)
  along = lambda s: jax.jvp(jax.grad(loss), (s,), (s,))[1]
  assert jax.eval_shape(along, rows).shape == rows.shape


def train_quantizer(s):
  """Updates codebooks."""
  module = small(dim=3, kmeans_iterations=0)
  state = module.init(KEY, s[:, :, 0])
  return module.apply(
    state,
    s[:, :, 0],
    train=True,
    mutable=["codebook"],
    rngs={"quantize": KEY},
  )[0].commitment


def balance(s):
  """Balances two gradients."""
  grads = {"a": s, "b": 2 * s}
  return balancer.balance(balancer.init(grads), grads, {"a": 1.0, "b": 1.0})[0]


def compare(s):
  """Compares the items of a batch."""
  return triplet.semi_hard(s.reshape(len(s), -1), jnp.arange(len(s)) % 2)[0]


def draw(s):
  """Chooses codes by logits that are relative to those of the batch."""
  return gumbel.standardise(s[:, :, 0], jnp.ones(s.shape[:2], bool))


@pytest.mark.parametrize(
  "call", [*LOSSES.values(), train_quantizer, balance, compare, draw]
)
def test_parts_of_a_batch(call):
  """Catches statistics of the rows of one device, silently."""
  rows = jnp.concatenate([ROWS] * 4)
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(
    lambda s: jnp.sum(call(s))[None],
    mesh=mesh,
    in_specs=P("data"),
    out_specs=P("data"),
    check_vma=False,
  )
  for function, s in (
    (mapped, rows),
    (jax.jit(mapped), rows),
    (jax.pmap(call), rows.reshape(4, 2, *ROWS.shape[1:])),
  ):
    with pytest.raises(UserError, match="shard_map.*jax.jit"):
      jax.eval_shape(function, s)
  with jax.set_mesh(mesh):
    jax.eval_shape(jax.jit(call), rows)
