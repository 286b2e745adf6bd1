"""Models on meshes that a user brings, with axes of any names and types.

Defects that these tests must catch: a KeyError for an axis that the mesh does
not have, another result than without a mesh, and JAX's errors about shardings
where one sentence belongs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from random_music import random_params
from small_quantizer import latents, small

from mmdcodec.errors import UserError
from mmdcodec.models import codec, token_lm
from mmdcodec.nn import splash
from mmdcodec.nn.lstm import LSTM
from mmdcodec.parallel import rules
from mmdcodec.quantize import independence

KEY = jax.random.key(0)


def foreign(kind=AxisType.Auto):
  """One axis is the project's, the other is not."""
  return jax.make_mesh((4, 2), ("x", "model"), axis_types=(kind,) * 2)


def language_model():
  """Logits of a tiny TokenLM, as a function of params and tokens."""
  model = token_lm.from_config(
    token_lm.preset("tiny", conditions={}, cross=False)
  )
  tokens = np.random.default_rng(0).integers(0, 30, (8, 6, model.codebooks))
  apply = lambda params, tokens: model.apply({"params": params}, tokens)
  return apply, random_params(model), tokens


def test_language_model():
  """Catches rules and activations that need the project's axes."""
  apply, params, tokens = language_model()
  wanted = jax.jit(apply)(params, tokens)
  mesh = foreign()
  layout = rules.shardings(params, mesh, rules.LM_RULES)
  divided = [s.spec for s in jax.tree.leaves(layout) if s.spec != P()]
  assert any("model" in spec for spec in divided)
  with jax.set_mesh(mesh):
    found = jax.jit(apply)(jax.device_put(params, layout), tokens)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
  # Each device on its own, and over one axis only.
  for names in ({"x", "model"}, {"x"}):
    mapped = jax.shard_map(
      apply,
      mesh=mesh,
      in_specs=(P(), P("x")),
      out_specs=P("x"),
      axis_names=names,
    )
    found = jax.jit(mapped)(params, tokens)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_specs_of_other_axes():
  """Catches names that the mesh does not have in a spec."""
  mesh = foreign()
  spec = lambda *axes: rules.activation_spec((8, 6), mesh, *axes)
  assert spec("batch", "model") == P(None, "model")
  assert spec(("fsdp", "model"), "x") == P("model", None)
  assert spec(("x", "model"), None) == P(("x", "model"), None)


@pytest.mark.parametrize("check_vma", [True, False])
def test_splash_of_one_device(check_vma):
  """Catches a kernel that divides what one device has already."""
  q = np.random.default_rng(0).normal(size=(2, 128, 2, 16)).astype("f4")
  mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
  seen = []

  def attend(q):
    seen.append(splash.fits(jnp.concatenate([q] * 8, 1)))
    if check_vma:  # JAX's kernel does not work here, so nobody may call it
      return q
    return splash.attend(q, q, q, interpret=True)

  spec = P("x", None, None, None)
  mapped = jax.shard_map(
    attend, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma
  )
  found = jax.jit(mapped)(q)
  assert seen == [not check_vma]
  if not check_vma:
    wanted = jax.nn.dot_product_attention(q, q, q, is_causal=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@functools.cache
def calls():
  """Functions of a batch [8, ...], by name, with the batch."""
  model = codec.from_config(codec.preset("encodec_tiny"))
  audio = jnp.zeros((8, 4 * model.stride, 1))
  variables = jax.eval_shape(model.init, KEY, audio)
  zeros = lambda s: jnp.zeros(s.shape, s.dtype)
  variables = jax.tree.map(zeros, variables)
  apply, params, tokens = language_model()
  module, z = small(), latents(0, (8, 4, 8))
  state = module.init(KEY, z)
  lstm = LSTM(dim=8)
  weights = lstm.init(KEY, z)
  streams = latents(1, (8, 2, 2, 4))
  return {
    "codec": (lambda x: model.apply(variables, x), audio),
    "language model": (lambda x: apply(params, x), jnp.asarray(tokens)),
    "quantizer": (lambda x: module.apply(state, x), z),
    "lstm": (lambda x: lstm.apply(weights, x), z),
    "loss": (lambda x: independence.independence_loss(x, KEY), streams),
    "mmd2": (lambda x: independence.mmd2(x[:, 0, 0], x[:, 1, 0]), streams),
    "dhsic": (lambda x: independence.dhsic(x[:, 0]), streams),
  }


NAMES = (
  "codec",
  "language model",
  "quantizer",
  "lstm",
  "loss",
  "mmd2",
  "dhsic",
)


@pytest.mark.parametrize("name", NAMES)
def test_explicit_axes(name):
  """Catches JAX's own errors for the axes that jax.make_mesh makes."""
  call, batch = calls()[name]
  mesh = jax.make_mesh((8,), ("x",))
  assert mesh.axis_types == (AxisType.Explicit,)
  given = jax.device_put(batch, NamedSharding(mesh, P("x")))
  with pytest.raises(UserError, match="AxisType.Auto"):
    jax.eval_shape(call, given)
  with jax.set_mesh(mesh), pytest.raises(UserError, match="AxisType.Auto"):
    jax.eval_shape(call, batch)
