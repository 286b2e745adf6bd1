"""What the independence losses say of codes whose dependence is known.

By default 4 codebooks of 2,048 codes of 128 dimensions and the paper's kernel.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_independence import dependent_codes

from mmdcodec.quantize.independence import GaussianKernel, independence_loss

ESTIMATORS = ("mmd", "dhsic")
BOOKS, SIZE, DIM = 4, 2048, 128


@functools.partial(jax.jit, static_argnames=("kernel", "estimator"))
def of_keys(keys, streams, mask, kernel, estimator="mmd"):
  """Losses [keys] of the same streams."""
  loss = lambda key: independence_loss(
    streams, key, kernel=kernel, estimator=estimator, mask=mask, block_size=32
  )
  return jax.lax.map(loss, keys)


@pytest.mark.parametrize(
  "kernel",
  [
    GaussianKernel((1.0, 3.0)),
    GaussianKernel((0.3, 0.7), relative=True),
  ],
  ids=["absolute", "relative"],
)
def test_closed_form_is_the_mean_of_permutations(kernel):
  """Catches a closed form of something else, with padding as well.

  This holds for kernels that are a product over the codebooks, of which the
  Gaussian is the only one here.
  """
  z = dependent_codes(64, 3, 4, noise=0.3).reshape(2, 32, 3, 4)
  full = np.ones((2, 32), bool)
  padded = full.copy()
  padded[1, 11:] = False
  keys = jax.random.split(jax.random.key(0), 3000)
  for mask in (full, padded):
    draws = np.asarray(of_keys(keys, z, mask, kernel), np.float64)
    closed = of_keys(keys[:1], z, mask, kernel, "dhsic")[0]
    error = draws.std() / len(draws) ** 0.5
    assert abs(draws.mean() - closed) < 3 * error
    # And not for being too noisy to tell.
    assert error < 0.01 * closed


def draw(key, copied, rows):
  """Streams [1, rows, codebooks, dim]; `copied`: share of equal indices."""
  vectors, first, others, whether = jax.random.split(key, 4)
  vectors = jax.random.normal(vectors, (BOOKS, SIZE, DIM))
  first = jax.random.randint(first, (rows, 1), 0, SIZE)
  others = jax.random.randint(others, (rows, BOOKS), 0, SIZE)
  same = jax.random.uniform(whether, (rows, BOOKS)) < copied
  codes = jnp.where(same, first, others)
  return vectors[jnp.arange(BOOKS), codes][None]


@functools.partial(jax.jit, static_argnames=("rows", "estimator"))
def of_draws(keys, copied, rows, estimator):
  """Losses [draws] with the default kernel."""

  def loss(pair):
    key, share = pair
    return independence_loss(
      draw(key, share, rows),
      jax.random.fold_in(key, 1),
      estimator=estimator,
      block_size=256,
    )

  return jax.lax.map(loss, (keys, jnp.broadcast_to(copied, keys.shape)))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_independent_codes_and_ten_levels_of_dependence(estimator):
  """Catches a bias, a clamp at 0, and a loss that does not see dependence."""
  keys = jax.random.split(jax.random.key(1), 200)
  none = np.asarray(of_draws(keys, 0.0, 512, estimator), np.float64)
  assert abs(none.mean()) < 3 * none.std(ddof=1) / 200**0.5
  assert 0.2 < (none < 0).mean() < 0.8

  levels = jnp.repeat(jnp.linspace(0.0, 0.9, 10), 20)
  means = of_draws(keys, levels, 512, estimator).reshape(10, 20).mean(1)
  assert (jnp.diff(means) > 0).all(), means


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_negative_values_have_a_gradient(estimator):
  """Catches a clamp, wherever it stands."""
  value_and_grad = jax.jit(
    jax.value_and_grad(
      lambda z, key: independence_loss(
        z, key, estimator=estimator, block_size=64
      )
    )
  )
  below = 0
  for seed in range(8):
    z = dependent_codes(64, 4, 8, copied=0.0, seed=seed)[None]
    value, gradient = value_and_grad(z, jax.random.key(seed))
    below += int(value < 0)
    assert jnp.linalg.norm(gradient) > 1e-6
  assert below
