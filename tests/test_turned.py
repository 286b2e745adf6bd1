"""Kernels for decoding, [outputs, inputs], and which devices get them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec import platform
from mmdcodec.generation import decoding
from mmdcodec.models import token_lm
from mmdcodec.nn import cache, turned
from mmdcodec.parallel import mesh as mesh_lib


@pytest.mark.parametrize("device", ("cpu", "gpu"))
def test_against_float64(device, monkeypatch):
  """Catches axes in another order, in attention's `out` above all."""
  monkeypatch.setattr(platform, "traced_for", lambda: device)
  random = np.random.default_rng(0)
  x, kernel = random.normal(size=(2, 3, 4, 5)), random.normal(size=(4, 5, 6))
  own = turned.turn(kernel.astype(np.float32), 2)
  layer = turned.TurnedDense((6,), 2, np.float32)
  found = layer.apply({"params": {"kernel": own}}, x.astype(np.float32))
  want = np.einsum("bthd,hdo->bto", x, kernel)
  np.testing.assert_allclose(found, want, atol=1e-5)
  heads = turned.TurnedDense((4, 5), 1, np.float32)
  back = random.normal(size=(6, 4, 5))
  own = {"params": {"kernel": turned.turn(back.astype(np.float32))}}
  found = heads.apply(own, want.astype(np.float32))
  again = np.einsum("bto,ohd->bthd", want, back)
  np.testing.assert_allclose(found, again, atol=1e-4)


def test_the_kernel_stays_the_left_factor():
  """Catches XLA's rewriting of the product, which makes it half as fast."""
  x, kernel = np.ones((4, 1, 64)), np.ones((256, 64))
  lowered = jax.jit(turned.product).lower(jnp.float32(x), jnp.float32(kernel))
  compiled = lowered.compile().as_text()
  assert "f32[256,4]{1,0} dot(" in compiled


@pytest.mark.parametrize("depth", (None, dict(layers=1, width=8, heads=2)))
def test_every_device_has_a_form_and_all_say_the_same(
  depth, compile_fast, monkeypatch
):
  """Catches a form that its device did not ask for, or that changes codes."""
  changes = dict(activation="geglu", kv_heads=1, qk_norm=True)
  fields = token_lm.preset("tiny", conditions={}, pattern=None, **changes)
  model = token_lm.from_config(fields | dict(depth=depth))
  random = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: random.normal(size=s.shape).astype(np.float32) / 4,
    token_lm.shapes(model)["params"],
  )
  steps, batch = 6, 2
  request = decoding.DecodeRequest(
    encoded=decoding.EncodedConditions(),
    frames=np.zeros(steps, np.int32),
    given=np.full((batch, steps + 1, model.codebooks), -1).astype(np.int32),
    keys=jax.random.split(jax.random.key(0), batch),
    temperature=np.float32(0),
    top_p=None,
    guidance=np.float32(1),
    double_guidance=np.float32(1),
  )
  request.given[:, 0] = model.special
  codes = {}
  for device in ("cpu", "gpu", "tpu"):
    monkeypatch.setattr(platform, "traced_for", lambda device=device: device)
    own = decoding.prepare(model, params)
    apart = isinstance(own["transformer"]["blocks"], tuple)
    assert apart == (device != "tpu")
    # Another model to `jit`, which otherwise traces for the first device only.
    model = model.clone(dropout=model.dropout + 0.1)
    state = decoding.prefill(model, own, request, 1, count=0, groups=1)
    state = decoding.advance(
      model, own, request, state, steps + 1, groups=1, top_k=0
    )
    codes[device] = np.asarray(state.tokens)
  assert len(np.unique(codes["cpu"][:, 1:])) > 4
  np.testing.assert_array_equal(codes["cpu"], codes["gpu"])
  np.testing.assert_array_equal(codes["cpu"], codes["tpu"])


def step_for_gpus(device, **fields):
  """Numbers of products with kernels, of others and of loops in a step."""
  fields = token_lm.preset("tiny", conditions={}, pattern=None, **fields)
  model = token_lm.from_config(fields)
  vectors, mask = jnp.ones((1, 3, model.width)), jnp.ones((1, 3), bool)
  encoded = decoding.EncodedConditions(
    *((vectors, mask) if model.cross else (None, None, vectors, mask))
  )
  params = token_lm.shapes(model, encoded)["params"]
  own = jax.eval_shape(lambda p: decoding.prepare(model, p, device), params)
  request = decoding.DecodeRequest(
    encoded=encoded,
    frames=np.zeros(6, np.int32),
    given=np.zeros((1, 7, model.codebooks), np.int32),
    keys=jax.random.split(jax.random.key(0), 1),
    temperature=np.float32(1),
    top_p=None,
    guidance=np.float32(1),
    double_guidance=np.float32(1),
  )
  given = dict(model=model, params=own, request=request, groups=1)
  state = decoding.prefill.trace(**given, start=1, count=0).out_info
  traced = decoding.advance.trace(**given, state=state, until=7, top_k=5)
  text = traced.lower(lowering_platforms=("cuda",)).as_text()
  products = re.findall(r"stablehlo\.dot_general.*", text)
  others = sum("batching_dims" in line for line in products)
  return np.array(
    [len(products) - others, others, text.count("stablehlo.while")]
  )


@pytest.mark.parametrize(
  "fields, kernels, others",
  [
    (dict(cross=False), 4, 2),
    (dict(cross=False, activation="geglu", positions="rotary"), 4, 2),
    (dict(cross=True), 6, 4),
  ],
)
def test_a_step_on_gpus_is_few_kernels(fields, kernels, others, monkeypatch):
  """Catches products that could be one, and a loop inside the loop of steps.

  Around a loop a GPU gets its kernels one by one, and inside of one it copies
  each weight out of the stack.
  """
  monkeypatch.setattr(platform, "traced_for", lambda: "gpu")
  one, three = (
    step_for_gpus("gpu", layers=layers, **fields) for layers in (1, 3)
  )
  np.testing.assert_array_equal(three - one, [2 * kernels, 2 * others, 0])
  stacked = step_for_gpus("tpu", layers=3, **fields)
  assert stacked[2] == one[2] + 1


def test_several_gpus_stay_stacked():
  """Catches merged heads where a mesh is to divide them."""
  assert cache.wants_blocks("gpu")
  for size in (1, 2):
    mesh = mesh_lib.make_mesh(
      dict(data=1, fsdp=1, model=size), jax.devices()[:size]
    )
    with jax.set_mesh(mesh):
      assert cache.wants_blocks("gpu") == (size == 1)
      assert cache.wants_blocks("cpu") and not cache.wants_blocks("tpu")
