"""The conformer.

Must catch: distances to the wrong side, or off by one; padding, or what stands
in it, that changes valid frames; a stack that is not its blocks one by one.
Public weights are in test_public_semantic.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.errors import UserError
from mmdcodec.nn import positions
from mmdcodec.nn.conformer import POSITIONS, Conformer, ConformerBlock

FIELDS = dict(layers=2, width=8, heads=2, hidden=12, kernel=3, left=3, right=2)


def random_model(frames=7, **fields):
  """A conformer, random variables and an input of two clips, one padded."""
  model = Conformer(**FIELDS | fields)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, frames, 8)).astype(np.float32)
  mask = np.arange(frames) < np.array([[frames], [frames - 3]])
  like = jax.eval_shape(model.init, jax.random.key(0), x, mask)
  draw = lambda a: rng.standard_normal(a.shape).astype(np.float32)
  variables = jax.tree.map(draw, dict(like))
  # Variances are positive.
  stats = jax.tree.map(np.abs, variables.get("batch_stats", {}))
  return model, variables | {"batch_stats": stats}, x, mask


@jax.jit(static_argnums=0)
def run(model, variables, x, mask):
  return model.apply(variables, x, mask)


@jax.jit(static_argnums=(0, 4))
def run_first(model, variables, x, mask, layer):
  return model.apply(variables, x, mask, layer, method="hidden_states")


@pytest.mark.parametrize("count", [1, 4, 9])
def test_logits_of_distances(count):
  """Catches a shift to the wrong side, or one that is off by one."""
  left, right = 3, 2
  x = np.random.default_rng(0).standard_normal((2, count, left + right + 1))
  y = positions.relative_logits(jnp.asarray(x), left, right)
  assert y.shape == (2, count, count)
  for i in range(count):
    for j in range(count):
      at = np.clip(j - i, -left, right) + left
      np.testing.assert_array_equal(y[:, i, j], x[:, i, at].astype(np.float32))


SLOW = pytest.mark.slow
BATCH = dict(conv_norm="batch", causal_conv=True, kernel=4, final_norm=True)


@pytest.mark.parametrize(
  "fields",
  [
    dict(positions="rotary_input"),
    pytest.param(dict(positions="none"), marks=SLOW),
    pytest.param(dict(positions="rotary"), marks=SLOW),
    dict(positions="relative_key"),
    pytest.param(BATCH, marks=SLOW),
  ],
)
def test_padding(fields):
  """Catches padding that changes a frame, and frames that see too little."""
  model, variables, x, mask = random_model(**fields)
  y = run(model, variables, x, mask)
  # Nothing of what stands in padding may matter, even no number.
  other = np.where(mask[..., None], x, np.nan)
  np.testing.assert_array_equal(run(model, variables, other, mask), y)
  # Every other frame does matter.
  changed = x.copy()
  changed[:, 0, 0] += 1
  moved = np.abs(run(model, variables, changed, mask) - y).max(-1) > 1e-6
  np.testing.assert_array_equal(moved, mask)


@pytest.mark.parametrize(
  "name",
  [
    each if each == "relative_key" else pytest.param(each, marks=SLOW)
    for each in POSITIONS
  ],
)
def test_chunks(name):
  """Catches a chunk too many or too few, and other positions inside of one."""
  size, frames = 3, 8
  # Convolutions of one frame, so that only attention hears others.
  fields = dict(layers=1, kernel=1, positions=name)
  model, variables, x, mask = random_model(frames, chunk=size, **fields)
  y = run(model, variables, x, mask)
  for j in range(frames):
    changed = x.copy()
    # It reaches all that hear it, however little.
    changed[:, j] = np.nan
    heard = np.isnan(run(model, variables, changed, mask)).any(-1)
    later = np.arange(frames) // size - j // size
    hears = ((later == 0) | (later == 1)) & mask & mask[:, j : j + 1]
    np.testing.assert_array_equal(heard, hears)
  # Two chunks are a clip, whose last frames hear all of it.
  whole, *_ = random_model(frames, **fields)
  alone = run(whole, variables, x[:, :6], mask[:, :6])
  np.testing.assert_allclose(y[:, 3:6], alone[:, 3:6], rtol=1e-4, atol=1e-5)
  # A long chunk is a whole clip.
  one, *_ = random_model(frames, chunk=11, **fields)
  np.testing.assert_allclose(
    run(one, variables, x, mask),
    run(whole, variables, x, mask),
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.parametrize("fields", [{}, pytest.param(BATCH, marks=SLOW)])
def test_blocks_one_by_one(fields):
  """Catches blocks in another order, and clips that know their batch."""
  model, variables, x, mask = random_model(**fields)
  got = run_first(model, variables, x, mask, 2)
  if not model.final_norm:
    np.testing.assert_array_equal(run(model, variables, x, mask), got)
  block = jax.jit(ConformerBlock(**model.block).apply)
  one, seen = x[1:, :4], mask[1:, :4]
  for i in range(2):
    at = {k: v["blocks"] for k, v in variables.items() if v}
    one = block(jax.tree.map(lambda a, i=i: a[i], at), one, seen)
  np.testing.assert_allclose(got[1, :4], one[0], rtol=1e-4, atol=1e-5)


@SLOW
def test_rotary_input_differs():
  """Catches rotation of the projected queries in the place of their input."""
  outputs = []
  for name in POSITIONS[:3]:
    model, variables, x, mask = random_model(positions=name)
    outputs.append(np.asarray(run(model, variables, x, mask)))
  for i, j in ((0, 1), (0, 2), (1, 2)):
    assert np.abs(outputs[i] - outputs[j]).max() > 1e-3


@SLOW
def test_training():
  """Catches lost gradients, and statistics that count padding."""
  model, variables, x, mask = random_model(
    conv_norm="batch", remat="full", dropout=0.1
  )

  @jax.jit
  def step(params, x):
    def loss(params):
      y, changed = model.apply(
        variables | {"params": params},
        x,
        mask,
        train=True,
        rngs={"dropout": jax.random.key(0)},
        mutable=["batch_stats"],
      )
      return jnp.sum(y**2 * jnp.arange(8)), changed

    return jax.grad(loss, has_aux=True)(params)

  grads, changed = step(variables["params"], x)
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(g).all(), path
    # A bias of all keys changes no softmax.
    assert np.any(g) or "'key'" in str(path), path
  again = step(variables["params"], np.where(mask[..., None], x, np.nan))
  jax.tree.map(np.testing.assert_array_equal, (grads, changed), again)
  before = variables["batch_stats"]
  same = jax.tree.map(np.array_equal, changed["batch_stats"], before)
  assert not any(jax.tree.leaves(same))


def test_bounds():
  """Catches fields that fit no block."""
  for fields, word in (
    (dict(heads=3), "multiple of 3"),
    (dict(heads=8, positions="rotary"), "multiple of 16"),
    (dict(kernel=4), "odd"),
    (dict(positions="sinusoidal"), "relative_key"),
  ):
    with pytest.raises(UserError, match=word):
      Conformer(**FIELDS | fields)
