"""Kernels for decoding on CPUs, [outputs, inputs], and who gets them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.generation import decoding
from mmdcodec.models import token_lm
from mmdcodec.nn import turned


def test_against_float64():
  """Catches axes in another order, in attention's `out` above all."""
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
def test_every_device_has_a_form_and_all_say_the_same(depth, compile_fast):
  """Catches a form that its device did not ask for, or that changes codes."""
  fields = token_lm.preset("tiny", conditions={}, pattern=None)
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
    own = decoding.prepare(model, params, device)
    apart = isinstance(own["transformer"]["blocks"], tuple)
    assert apart == (device == "cpu")
    if device == "tpu":
      continue  # as for GPUs
    state = decoding.prefill(model, own, request, 1, count=0, groups=1)
    state = decoding.advance(
      model, own, request, state, steps + 1, groups=1, top_k=0
    )
    codes[device] = np.asarray(state.tokens)
  assert len(np.unique(codes["cpu"][:, 1:])) > 4
  np.testing.assert_array_equal(codes["cpu"], codes["gpu"])
