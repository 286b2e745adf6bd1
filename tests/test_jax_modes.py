"""64-bit mode and strict promotion of JAX, which a user may have switched on.

Defects that these tests must catch: scans that start in float32 and end in
float64, other random numbers than without, and errors of JAX from deep inside.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_quantizer import latents, small
from test_foreign_meshes import NAMES, calls

from mmdcodec.errors import UserError
from mmdcodec.losses.masking import masked_mean
from mmdcodec.losses.triplet import semi_hard
from mmdcodec.models import codec, embedding_mapper, token_lm
from mmdcodec.nn import cache
from mmdcodec.nn.griffin_lim import griffin_lim
from mmdcodec.nn.lstm import LSTM
from mmdcodec.nn.transformer import Transformer
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.quantize import independence
from mmdcodec.quantize.gumbel import GumbelQuantizer, diversity
from mmdcodec.quantize.random_projection import RandomProjection
from mmdcodec.train import config_files, program
from mmdcodec.train.task import make_task

KEY = np.array([0, 7], np.uint32)
Z = latents(0, (2, 20, 8))


def quantize():
  """Two steps of a quantizer with everything that draws random numbers."""
  module = small(kmeans_iterations=2, dropout=0.5, threshold=0.5)
  variables = module.init(KEY, Z)
  for step in range(2):
    out, variables = module.apply(
      variables,
      Z,
      train=True,
      mutable=["codebook"],
      rngs={"quantize": jax.random.fold_in(KEY, step)},
    )
  return out, variables


def loss(estimator):
  """Value and gradient of an independence loss."""
  streams = Z.reshape(2, 20, 2, 4)
  return lambda: jax.value_and_grad(
    lambda s: independence.independence_loss(
      s, KEY, estimator=estimator, block_size=16
    )
  )(streams)


def gumbel():
  """Noise, and the losses that see a mask."""
  mask = np.arange(20) < np.array([[20], [13]])
  chosen, variables = GumbelQuantizer(8, 4).init_with_output(KEY, Z, mask, KEY)
  right = chosen.ids == chosen.drawn
  return (
    variables,
    chosen,
    diversity(chosen.logits, mask),
    masked_mean(right, mask),
  )


def decode(by_block, window):
  """Two pieces of a sequence with a cache."""
  model = Transformer(
    layers=1, width=8, heads=1, kv_heads=1, hidden=8, cross=False,
    positions="relative", window=window,
  )  # fmt: skip
  params = model.init(KEY, Z)["params"]
  if by_block:
    params = cache.by_block(params, 1)
  positions, valid = np.arange(20)[None], np.ones((2, 20), bool)
  held, found = cache.empty(model, params, 2, 20), []
  for at, end in ((0, 9), (9, 10)):
    y, held = cache.extend(
      model,
      params,
      Z[:, at:end],
      held,
      jnp.int32(at),
      positions[:, at:end],
      valid,
      positions,
    )
    found.append(y)
  return found


CALLS = {
  "decoding": lambda: decode(by_block=False, window=0),
  "decoding by block": lambda: decode(by_block=True, window=4),
  "quantizer": quantize,
  "gumbel": gumbel,
  "random_projection": lambda: RandomProjection(8, 4).init_with_output(KEY, Z),
  "griffin_lim": lambda: griffin_lim(abs(latents(0, (2, 20, 9))), 4, 2),
  "triplet": lambda: semi_hard(Z[0], np.arange(20) // 2),
  "mapper": lambda: embedding_mapper.init(KEY, 4),
  "lstm": lambda: LSTM(dim=8).init_with_output(KEY, Z),
  "mmd": loss("mmd"),
  "dhsic": loss("dhsic"),
}


@pytest.mark.parametrize("name", CALLS)
def test_64_bits_change_nothing(name):
  """Catches results in float64, and draws of other numbers."""
  wanted = jax.jit(CALLS[name])()
  with jax.enable_x64(True):
    found = jax.jit(CALLS[name])()

  def same(one, other):
    assert one.dtype == other.dtype
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

  jax.tree.map(same, found, wanted)


def dtypes(tree):
  return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


@pytest.mark.parametrize(
  "preset",
  ["encodec_stereo_tiny", "spectral_tiny"],
)
def test_codecs_in_64_bits(preset):
  """Catches scans of the codecs that end in another dtype, and parameters."""
  model = codec.from_config(codec.preset(preset))
  x = jax.ShapeDtypeStruct((1, 4 * model.stride, model.channels), "float32")
  with jax.enable_x64(True):
    variables = jax.eval_shape(model.init, KEY, x)
    assert dtypes(variables) <= {"float32", "bool"}
    step = lambda variables, x: model.apply(
      variables, x, train=True, mutable=["codebook"], rngs={"quantize": KEY}
    )
    out, changed = jax.eval_shape(step, variables, x)
  assert dtypes(changed) <= {"float32", "bool"}
  assert dtypes((out.audio, out.z, out.streams, out.commitment)) == {"float32"}
  assert dtypes(out.codes) == {"int32"}


def test_language_model_in_64_bits():
  """Catches parameters and logits in float64."""
  with jax.enable_x64(True):
    model = token_lm.from_config(token_lm.preset("tiny"))
    assert dtypes(token_lm.shapes(model)) == {"float32"}


@pytest.mark.usefixtures("all_devices")
@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [
    "encodec_24khz",
    "spectral_24khz",
    "musicgen",
    "semantic",
    "mulan",
    "melody_embedding",
  ],
)
def test_training_in_64_bits(name):
  """Catches a state that a step returns with other dtypes."""
  config = config_files.parse([f"--config={name}:tiny"]).to_dict()
  with jax.enable_x64(True):
    task, mesh = make_task(config), mesh_lib.make_mesh()
    made = program.make_program(task, config, mesh)
    batch = task.batch_shapes(config["batch"])
    with jax.set_mesh(mesh):
      state, _ = jax.eval_shape(
        lambda s, b: made.step(s, b, None), made.abstract, batch
      )
  assert "float64" not in dtypes(state)
  assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(
    lambda x: x.dtype, made.abstract
  )


@pytest.mark.parametrize("name", NAMES)
def test_strict_promotion(name):
  """Catches an error of JAX from inside of Flax, and a loss that has none."""
  call, batch = calls()[name]
  with jax.numpy_dtype_promotion("strict"):
    with pytest.raises(UserError, match="numpy_dtype_promotion"):
      jax.eval_shape(call, batch)
    with jax.numpy_dtype_promotion("standard"):
      jax.eval_shape(call, batch)
    assert jnp.float32(1) + jnp.float32(1) == 2
