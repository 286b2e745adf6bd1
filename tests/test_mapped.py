"""Losses and quantizer inside `jax.shard_map` and `jax.pmap`.

Defects that these tests must catch: statistics of one device's rows, gradients
that are not those of the loss of all rows, and codebooks that drift apart.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from small_quantizer import latents, small

from mmdcodec.errors import UserError
from mmdcodec.models import codec
from mmdcodec.quantize import independence

KEY = jax.random.key(0)
BATCH = P(("x", "y"))
ROWS = np.random.default_rng(0).normal(size=(8, 3, 2, 3)).astype(np.float32)
# Not every device has as many rows that count.
MASK = np.arange(3)[None] < np.arange(8)[:, None] % 3 + 1
LOSSES = {
  name: functools.partial(
    independence.independence_loss,
    estimator=name,
    block_size=8,
    standardize=name == "mmd",
  )
  for name in independence.ESTIMATORS
}


def grid(*shape):
  """A mesh with axes of other names than the project's."""
  return jax.make_mesh(
    shape, ("x", "y")[: len(shape)], axis_types=(AxisType.Auto,) * len(shape)
  )


def shard(call, check_vma=True):
  """Maps a function of the batch over eight devices in two axes."""
  return jax.shard_map(
    call,
    mesh=grid(2, 4),
    in_specs=BATCH,
    out_specs=P(),
    check_vma=check_vma,
  )


def agree(found, wanted, scale=1.0):
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize(
  ("name", "check_vma"),
  [
    ("mmd", True),
    pytest.param("dhsic", False, marks=pytest.mark.slow),
  ],
)
def test_loss_of_all_rows(name, check_vma):
  """Catches a share of the tiles of local rows, and a gradient times eight."""
  loss = lambda s, mask: LOSSES[name](s, KEY, mask=mask)
  inside = lambda s, mask: LOSSES[name](s, KEY, mask=mask, axis_name=("x", "y"))
  wanted = jax.jit(jax.value_and_grad(loss))(ROWS, MASK)
  call = shard(inside, check_vma)
  found = jax.jit(jax.value_and_grad(call))(ROWS, MASK)
  agree(found[0], wanted[0])
  agree(found[1], wanted[1], np.abs(wanted[1]).max())


@pytest.mark.parametrize(
  "name", ["mmd", pytest.param("dhsic", marks=pytest.mark.slow)]
)
def test_gradient_of_parameters(name):
  """Catches a data-parallel step of pmap with another gradient than jit's.

  Devices with keys of their own must still permute in the same way.
  """
  w = jnp.float32(0.7) * jnp.arange(1, 4)
  loss = lambda w, s, key, axis=None: LOSSES[name](
    jnp.tanh(s * w), key, axis_name=axis
  )

  def step(w, s, key):
    value, gradient = jax.value_and_grad(loss)(w, s, key, "i")
    return value, lax.pmean(gradient, "i")

  wanted = jax.jit(jax.value_and_grad(loss))(w, ROWS, jax.random.split(KEY)[0])
  keys = jax.random.split(KEY, 2)
  found = jax.pmap(step, "i", in_axes=(None, 0, 0))(
    w, ROWS.reshape(2, 4, *ROWS.shape[1:]), keys
  )
  for device in range(2):
    agree(found[0][device], wanted[0])
    agree(found[1][device], wanted[1], np.abs(wanted[1]).max())


@pytest.mark.parametrize("name", ["loss", "quantizer"])
def test_one_device_beside_others(name):
  """Catches an internal error of XLA where one sentence belongs."""
  module, z = small(), latents(0, (8, 5, 8))
  calls = {
    "loss": lambda s, z: LOSSES["mmd"](s, KEY, axis_name="x"),
    "quantizer": lambda s, z: train(
      module, "x", jax.eval_shape(module.init, KEY, z), z, None, KEY
    )[0],
  }
  call = jax.shard_map(
    calls[name],
    mesh=grid(1, 4),
    in_specs=P("x"),
    out_specs=P(),
    axis_names={"x"},
  )
  with pytest.raises(UserError, match=r"\['x'\].*one device.*\['y'\]"):
    jax.eval_shape(call, ROWS, z)
  # Without a name, one device has all rows.
  alone = jax.shard_map(
    lambda s: LOSSES["mmd"](s, KEY)[None],
    mesh=grid(1, 4),
    in_specs=P("x"),
    out_specs=P("x"),
    axis_names={"x"},
  )
  assert jax.eval_shape(alone, ROWS).shape == (1,)


def test_two_samples():
  """Catches samples that are not gathered."""
  x, y = ROWS[:, :, 0].reshape(-1, 3), ROWS[:, :, 1].reshape(-1, 3) + 1
  inside = lambda x, y: independence.mmd2(x, y, axis_name=("x", "y"))
  agree(jax.jit(shard(inside))(x, y), jax.jit(independence.mmd2)(x, y))


def train(module, axis, variables, z, mask, key):
  """A step of the quantizer, with the gradient of its commitment."""

  def loss(w):
    out, changed = module.apply(
      variables,
      z * w,
      mask,
      train=True,
      axis_name=axis,
      mutable=["codebook"],
      rngs={"quantize": key},
    )
    rest = out.metrics, changed, out.codes, out.levels
    return out.commitment, rest

  (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(
    jnp.float32(1)
  )
  return value, gradient, *rest


SHARED = (P(), P(), P(), P())


@pytest.mark.parametrize(
  "mapper",
  [
    "pmap",
    pytest.param("check_vma", marks=pytest.mark.slow),
    pytest.param("shard_map", marks=pytest.mark.slow),
  ],
)
def test_quantizer(mapper):
  """Catches codebooks, k-means and dead codes of one device's rows."""
  module = small(kmeans_iterations=2, dropout=0.5, threshold=0.5)
  z = latents(0, (8, 5, 8))
  mask = np.arange(5)[None] < np.arange(8)[:, None] % 5 + 1
  variables = module.init(KEY, z)
  one = jax.jit(functools.partial(train, module, None))
  if mapper == "pmap":
    mapped = jax.pmap(
      functools.partial(train, module, "i"), "i", in_axes=(None, 0, 0, None)
    )
    cut = lambda x: x.reshape(4, 2, *x.shape[1:])

    def several(variables, z, mask, key):
      found = mapped(variables, cut(z), cut(mask), key)
      parts = [x.reshape(8, *x.shape[2:]) for x in found[4:]]
      value, gradient, *rest = jax.tree.map(lambda x: x[1], found[:4])
      return value, found[1].mean(), *rest, *parts

  else:
    several = jax.jit(
      jax.shard_map(
        functools.partial(train, module, ("x", "y")),
        mesh=grid(2, 4),
        in_specs=(P(), BATCH, BATCH, P()),
        out_specs=(*SHARED, BATCH, BATCH),
        check_vma=mapper == "check_vma",
      )
    )
  for step in range(2):
    key = jax.random.fold_in(KEY, step)
    wanted = one(variables, z, mask, key)
    found = several(variables, z, mask, key)
    if mapper == "shard_map":
      # The gradient of one device: the mean of all is not taken here.
      found, wanted = (x[:1] + x[2:] for x in (found, wanted))
    jax.tree.map(agree, found, wanted)
    variables = {"codebook": wanted[-3]["codebook"]}


@pytest.mark.slow
def test_codec():
  """Catches statistics of one device's latents beside the codebooks."""
  model = codec.from_config(codec.preset("spectral_tiny"))
  x = np.random.default_rng(0).normal(size=(4, 8 * model.stride, 1))
  x = x.astype(np.float32)
  variables = jax.jit(model.init)(KEY, x)

  def step(x, axis=None):
    out, changed = model.apply(
      variables,
      x,
      train=True,
      axis_name=axis,
      mutable=["codebook"],
      rngs={"quantize": KEY},
    )
    return out.commitment, changed

  wanted = jax.jit(step)(x)
  mesh = grid(4)
  found = jax.jit(
    jax.shard_map(
      functools.partial(step, axis="x"),
      mesh=mesh,
      in_specs=P("x"),
      out_specs=P(),
    )
  )(x)
  jax.tree.map(lambda a, b: agree(a, b, 10), found, wanted)
  apart = jax.shard_map(
    lambda x: (
      model.apply(
        variables, x, train=True, quantize=False, mutable=["codebook"]
      )[0].z
    ),
    mesh=mesh,
    in_specs=P("x"),
    out_specs=P("x"),
  )
  with pytest.raises(UserError, match="norm of the latents"):
    jax.eval_shape(apart, x)


def test_refused_without_names():
  """Catches a sentence that does not say what to give."""
  with pytest.raises(UserError, match="axis_name"):
    jax.eval_shape(shard(lambda s: LOSSES["mmd"](s, KEY)), ROWS)


@pytest.mark.parametrize("name", ["loss", "mmd2", "dhsic", "quantizer"])
def test_axes_that_do_not_divide_the_rows(name):
  """Catches rows that count once for each device that has them."""
  module, z = small(), latents(0, (8, 5, 8))
  call = {
    "loss": lambda s, z, axis: LOSSES["mmd"](s, KEY, axis_name=axis),
    "mmd2": lambda s, z, axis: independence.mmd2(
      s[:, 0, 0], s[:, 0, 1], axis_name=axis
    ),
    "dhsic": lambda s, z, axis: independence.dhsic(s[:, 0], axis_name=axis),
    "quantizer": lambda s, z, axis: train(
      module, axis, jax.eval_shape(module.init, KEY, z), z, None, KEY
    )[0],
  }[name]
  both = functools.partial(call, axis=("x", "y"))
  over_x = lambda mesh: jax.shard_map(
    both, mesh=mesh, in_specs=P("x"), out_specs=P()
  )
  with pytest.raises(UserError, match="'y' does not divide the rows: its 4"):
    jax.eval_shape(over_x(grid(2, 4)), ROWS, z)
  # A single device of an axis counts them once.
  if name == "loss":
    jax.eval_shape(over_x(grid(4, 1)), ROWS, z)
  with pytest.raises(UserError, match="'i' is not an axis of a jax.shard_map"):
    alone = functools.partial(call, axis="i")
    jax.eval_shape(jax.vmap(alone, axis_name="i"), ROWS[:, None], z[:, None])
