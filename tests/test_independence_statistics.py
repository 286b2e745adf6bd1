"""What the independence losses say of codes whose dependence is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_independence import dependent_codes

from mmdcodec.quantize.independence import GaussianKernel, independence_loss

ESTIMATORS = ("mmd", "dhsic")


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
    pytest.param(
      GaussianKernel((1.0, 3.0)), id="absolute", marks=pytest.mark.slow
    ),
    pytest.param(GaussianKernel((0.3, 0.7), relative=True), id="relative"),
  ],
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


def draw(key, copied, rows, books=4, size=64, dim=16):
  """Streams [1, rows, books, dim] of codes that copy the first with p."""
  vectors, first, others, whether = jax.random.split(key, 4)
  vectors = jax.random.normal(vectors, (books, size, dim))
  first = jax.random.randint(first, (rows, 1), 0, size)
  others = jax.random.randint(others, (rows, books), 0, size)
  same = jax.random.uniform(whether, (rows, books)) < copied
  codes = jnp.where(same.at[:, 0].set(True), first, others)
  return vectors[jnp.arange(books), codes][None]


@functools.partial(jax.jit, static_argnames=("estimator", "sizes"))
def of_draws(keys, copied, estimator, sizes=(256,)):
  """Losses [draws] with the default kernel."""

  def loss(pair):
    key, share = pair
    return independence_loss(
      draw(key, share, *sizes),
      jax.random.fold_in(key, 1),
      estimator=estimator,
      block_size=256,
    )

  return jax.lax.map(loss, (keys, copied))


@pytest.mark.parametrize(
  "estimator", ["mmd", pytest.param("dhsic", marks=pytest.mark.slow)]
)
def test_independent_codes_and_ten_levels_of_dependence(estimator):
  """Catches a bias, a clamp at 0, and a loss that does not see dependence."""
  keys = jax.random.split(jax.random.key(1), 200)
  none = np.asarray(of_draws(keys, jnp.zeros(200), estimator), np.float64)
  assert abs(none.mean()) < 3 * none.std(ddof=1) / 200**0.5
  assert 0.2 < (none < 0).mean() < 0.8

  # The same 20 draws at every level.
  levels = jnp.repeat(jnp.linspace(0.1, 1.0, 10), 20)
  means = of_draws(jnp.tile(keys[:20], 10), levels, estimator)
  means = means.reshape(10, 20).mean(1)
  assert (jnp.diff(means) > 0).all(), means
  assert means[-1] > 10 * none.std()


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
