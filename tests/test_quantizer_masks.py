"""Residual quantizer: padding and quantizer dropout.

Defects that these tests must catch: padding or dropped levels that leak into
codes, codebooks or gradients.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_quantizer import embed, evaluate, initial, latents, small, train

from mmdcodec.quantize.residual import sample_levels

# --- Padding -----------------------------------------------------------------

LENGTHS = np.array([40, 31, 17, 0])
MASK = np.arange(40) < LENGTHS[:, None]


def test_padding_leaves_no_trace_in_training():
  """Padding that reaches codes, statistics or replacement."""
  module = small(threshold=0.5, dropout=0.5)

  def run(padding):
    variables, outputs = initial(module, latents(0)), []
    for seed in range(3):
      z = np.where(MASK[..., None], latents(seed) + 20, np.float32(padding))
      out, variables = train(module, variables, z, jax.random.key(seed), MASK)
      outputs.append(jax.device_get(out))
    return outputs, jax.device_get(variables)

  clean, dirty = run(0.0), run(np.nan)
  chex.assert_trees_all_equal(clean, dirty)
  outputs, variables = clean
  # Nor does padding come in as zeros: every code of level 1 is near the data.
  assert np.linalg.norm(embed(variables)[0], axis=-1).min() > 20
  assert sum(out.metrics["replaced"].sum() for out in outputs) > 0
  assert not outputs[0].codes[~MASK].any()
  assert not outputs[0].streams[~MASK].any()


def test_masked_equals_alone():
  """Valid frames that see the padding beside them, in value or gradient."""
  module = small()
  z = np.where(MASK[..., None], latents(5), np.float32(np.nan))
  rows = z[MASK][None]
  _, variables = train(module, initial(module, z), rows, jax.random.key(0))

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def run(z, mask=None):
    out = evaluate(module, variables, z, mask)
    return out.commitment + jnp.sum(out.z**2), out

  grad, out = jax.device_get(run(z, MASK))
  grad_alone, alone = jax.device_get(run(rows))
  assert not grad[~MASK].any()
  np.testing.assert_array_equal(out.codes[MASK], alone.codes[0])
  np.testing.assert_allclose(out.z[MASK], alone.z[0], atol=1e-6)
  np.testing.assert_allclose(out.commitment, alone.commitment, rtol=1e-5)
  np.testing.assert_allclose(grad[MASK], grad_alone[0], rtol=1e-5)
  for name in ("usage", "perplexity"):
    np.testing.assert_allclose(
      out.metrics[name], alone.metrics[name], rtol=1e-6
    )


def test_all_padding_changes_nothing():
  """A step of padding only that starts, decays or poisons the codebooks."""
  module, z = small(kmeans_iterations=4), latents(0)
  variables = initial(module, z)
  out, after = train(
    module, variables, z, jax.random.key(1), np.zeros((4, 40), bool)
  )
  chex.assert_trees_all_equal(variables, after)
  assert out.commitment == 0 and not out.z.any()


# --- Quantizer dropout -------------------------------------------------------


def test_levels_are_drawn_per_example():
  """One draw for the whole batch; a level never or too often drawn."""
  levels = sample_levels(jax.random.key(0), 4000, 4, 0.5)
  share = np.bincount(levels, minlength=5) / 4000
  np.testing.assert_allclose(share, [0, 1 / 8, 1 / 8, 1 / 8, 5 / 8], atol=0.03)
  assert (sample_levels(jax.random.key(0), 100, 4, 0.0) == 4).all()


def test_dropped_levels_contribute_nothing():
  """Dropped levels in output or statistics; dropout in evaluation."""
  module = small(dropout=1.0, threshold=0.0, decay=0.0)
  z = latents(3, (8, 40, 8))
  _, variables = train(module, initial(module, z), z, jax.random.key(0))
  out, after = jax.device_get(train(module, variables, z, jax.random.key(1)))
  full = jax.device_get(evaluate(module, variables, z))
  assert set(out.levels) == {1, 2, 3} and set(full.levels) == {3}
  np.testing.assert_array_equal(out.codes, full.codes)
  np.testing.assert_array_equal(out.streams, full.streams)
  on = np.arange(3) < out.levels[:, None, None]  # [batch, 1, codebooks]
  expected = np.where(on[..., None], full.streams, 0).sum(2)
  np.testing.assert_allclose(out.z, expected, atol=1e-6)
  # Without memory (decay 0) the count of a level is its number of rows.
  np.testing.assert_allclose(
    after["codebook"]["count"].sum(-1), 40 * on.sum((0, 1)), rtol=1e-6
  )


@pytest.mark.parametrize("kmeans_iterations", [0, 2])
def test_frames_that_are_not_finite(kmeans_iterations):
  """Catches a codebook that one bad frame ruins, or the last code for it."""
  module = small(threshold=0.5, kmeans_iterations=kmeans_iterations)
  start = initial(module, latents(0))
  z = latents(1)
  mask = np.ones(z.shape[:2], bool)
  mask[1, 3] = False
  # Without the frame: as if it were padding.
  want, state = train(module, start, z, jax.random.key(1), mask)
  want, state = train(module, state, z, jax.random.key(2), mask)
  for bad in (np.nan, np.inf, -np.inf):
    spoiled = z.copy()
    spoiled[1, 3, 2] = bad
    whole = np.ones_like(mask)
    _, found = train(module, start, spoiled, jax.random.key(1), whole)
    out, found = train(module, found, spoiled, jax.random.key(2), whole)
    chex.assert_trees_all_equal(found, state)
    np.testing.assert_array_equal(out.codes[mask], want.codes[mask])
    np.testing.assert_array_equal(out.metrics["usage"], want.metrics["usage"])
    for result in (out, evaluate(module, found, spoiled, whole)):
      assert result.metrics["not_finite"] == 1
      assert (result.codes[1, 3] == module.size).all()
      # A loss of it is not finite, so that training can skip the step.
      assert np.isnan(result.z[1, 3]).all()
      assert np.isfinite(result.z[mask]).all()
    codes = module.apply(found, spoiled[1:2, 2:5], method="encode")
    again = module.apply(found, codes, method="decode")
    assert (codes[0, 1] == module.size).all()
    assert np.isnan(again[0, 1]).all() and np.isfinite(again[0, ::2]).all()


def test_a_first_batch_of_nothing_but_nan():
  """Catches codebooks that k-means starts from nothing, and that stay dead."""
  module = small(kmeans_iterations=2)
  start = initial(module, latents(0))
  z = np.full_like(latents(0), np.nan)
  out, state = train(module, start, z, jax.random.key(1))
  chex.assert_trees_all_equal(state, start)
  assert out.metrics["not_finite"] == z[..., 0].size
