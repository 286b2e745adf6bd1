"""Losses and quantizer on random meshes give what one device gives.

Defects that these tests must catch: a sum over some of the devices, for sizes
and names of axes that nobody thought of, and rows that are counted twice.
"""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from small_quantizer import latents, small

from mmdcodec.parallel import rules
from mmdcodec.quantize import independence

# A multiple of any number of devices up to 8 that is no prime above 3.
BATCH = 24
NAMES = ("data", "fsdp", "model", "x", "y")
KEY = np.array([0, 7], np.uint32)
STREAMS = np.random.default_rng(0).normal(size=(BATCH, 1, 2, 2)).astype("f4")
Z = latents(0, (BATCH, 2, 4))
MODULE = small(dim=4, size=8, codebooks=2, dropout=0.5, threshold=0.5)


def total(estimator, variables, streams, z, axis_name=None):
  """The sum of two losses, each of them, and the codebooks after a step."""
  dependence = independence.independence_loss(
    streams, KEY, estimator=estimator, block_size=8, axis_name=axis_name
  )
  out, changed = MODULE.apply(
    variables,
    z,
    train=True,
    axis_name=axis_name,
    mutable=["codebook"],
    rngs={"quantize": KEY},
  )
  rest = (dependence, out.commitment), changed, out.metrics
  return dependence + out.commitment, rest


def gradients(call):
  return jax.jit(jax.value_and_grad(call, (1, 2), has_aux=True))


@functools.cache
def one_device(estimator):
  variables = MODULE.init(KEY, Z)
  call = functools.partial(total, estimator)
  return variables, gradients(call)(variables, STREAMS, Z)


def random_mesh(rng):
  """Up to three axes over some of the devices, which may be in any order."""
  while True:
    sizes = rng.choice([1, 2, 3, 4], rng.integers(1, 4))
    if 1 < np.prod(sizes) <= 8:
      break
  devices = rng.permutation(jax.devices())[: np.prod(sizes)].reshape(sizes)
  names = rng.choice(NAMES, len(sizes), replace=False)
  return Mesh(
    devices, tuple(map(str, names)), axis_types=(AxisType.Auto,) * len(sizes)
  )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_any_mesh(seed):
  """Catches another value, gradient or codebook than one device's."""
  rng = np.random.default_rng(seed)
  mesh = random_mesh(rng)
  estimator = independence.ESTIMATORS[seed // 2 % 2]
  variables, wanted = one_device(estimator)
  count = rng.integers(1, len(mesh.axis_names) + 1)
  axes = tuple(map(str, rng.permutation(mesh.axis_names)[:count]))
  call = functools.partial(total, estimator)
  # One device beside several is refused: XLA fails on some sums.
  several = int(np.prod([mesh.shape[axis] for axis in axes])) > 1
  if (
    seed % 2 and several
  ):  # each device's rows, with the other axes left to the compiler
    call = jax.shard_map(
      functools.partial(call, axis_name=axes),
      mesh=mesh,
      in_specs=(P(), P(axes), P(axes)),
      out_specs=P(),
      axis_names=set(axes),
    )
  batch = NamedSharding(mesh, P(axes))
  with jax.set_mesh(mesh):
    found = gradients(call)(
      jax.device_put(
        variables, rules.shardings(variables, mesh, rules.CODEC_RULES)
      ),
      jax.device_put(STREAMS, batch),
      jax.device_put(Z, batch),
    )
  jax.tree.map(
    lambda one, other: np.testing.assert_allclose(
      one, other, rtol=1e-5, atol=1e-5, err_msg=str(mesh)
    ),
    found,
    wanted,
  )
