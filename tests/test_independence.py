"""The independence losses: values and gradients against float64 NumPy.

`reference_independence.py` has the other side. What counts as a row is tested
in test_independence_rows.py, what the losses say of codes of known dependence
in test_independence_statistics.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_independence as reference
from reference_independence import assert_equal, dependent_codes

from mmdcodec.parallel.mesh import batch_sharding, make_mesh
from mmdcodec.quantize.independence import (
  GaussianKernel,
  InverseMultiquadricKernel,
  LaplacianKernel,
  LinearKernel,
  QuadraticKernel,
  dhsic,
  independence_loss,
  mmd2,
)

KEY = jax.random.key(3)
# Of what both have in common, the second is slow.
MMD_FIRST = ("mmd", pytest.param("dhsic", marks=pytest.mark.slow))
RADII = (0.5, 1.0, 2.0)
KERNELS = {
  "paper": GaussianKernel(),
  "gaussian": GaussianKernel(RADII, relative=True),
  "laplacian": LaplacianKernel((0.1, 5.0)),
  "multiquadric": InverseMultiquadricKernel((0.1, 5.0)),
  "linear": LinearKernel(),
  "quadratic": QuadraticKernel(),
}


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def both(streams, kernel, estimator, block_size=100, key=KEY):
  """Value and gradient."""
  return jax.value_and_grad(
    lambda z: independence_loss(
      z, key, kernel=kernel, estimator=estimator, block_size=block_size
    )
  )(streams)


def numeric(f, z, step=1e-5):
  """Central differences."""
  gradient = np.zeros_like(z)
  for at in np.ndindex(z.shape):
    move = np.zeros_like(z)
    move[at] = step
    gradient[at] = (f(z + move) - f(z - move)) / (2 * step)
  return gradient


@pytest.mark.parametrize("name", KERNELS)
def test_reference(name):
  """Catches an error in the gradients by which all others are judged."""
  kernel = KERNELS[name]
  if kernel.relative:
    kernel = type(kernel)(kernel.radii)
  z = dependent_codes(8, 2, 3, noise=0.3).reshape(2, 4, 2, 3).astype(np.float64)
  x, y, rows = z[0, :, 0], z[1, :3, 0], z.reshape(8, 2, 3)
  for f, at in (
    (lambda z: reference.loss(z, KEY, kernel, "mmd"), z),
    (lambda z: reference.loss(z, KEY, kernel, "dhsic"), z),
    (lambda z: reference.dhsic(z, kernel, unbiased=False), rows),
  ):
    wanted = numeric(lambda z: f(z)[0], at)  # noqa: B023
    np.testing.assert_allclose(f(at)[1], wanted, atol=1e-6 * abs(wanted).max())
  for unbiased in (True, False):
    of = functools.partial(reference.mmd2, kernel=kernel, unbiased=unbiased)
    wanted = (
      numeric(lambda x: of(x, y)[0], x),  # noqa: B023
      numeric(lambda y: of(x, y)[0], y),  # noqa: B023
    )
    for one, other in zip(of(x, y)[1], wanted, strict=True):
      np.testing.assert_allclose(one, other, atol=1e-6 * abs(other).max())


@pytest.mark.parametrize("estimator", ["mmd", "dhsic"])
@pytest.mark.parametrize("name", KERNELS)
def test_loss_of_every_kernel(name, estimator):
  """Catches a wrong kernel, weight or tile, and an imprecise gradient.

  Rows are no whole number of blocks and many of them equal: between equal
  vectors the narrow radii have the steepest slopes, which must not count.
  """
  kernel = KERNELS[name]
  z = dependent_codes(257)[None]
  expected = reference.loss(z, KEY, kernel, estimator)
  assert_equal(both(z, kernel, estimator), expected)


@pytest.mark.parametrize("estimator", ["mmd", "dhsic"])
@pytest.mark.parametrize("n, dim", [(3, 16), (257, 1), (300, 512)])
def test_loss_of_every_size(n, dim, estimator):
  """Catches blocks larger than the rows, and widths with ways of their own."""
  z = dependent_codes(n, dim=dim, noise=0.0 if n > 3 else 0.5)[None]
  kernel = GaussianKernel((0.5, 5.0, 20.0))
  key = jax.random.key(2)  # under which the codebooks' orders of 3 rows differ
  expected = reference.loss(z, key, kernel, estimator)
  found = both(z, kernel, estimator, 512 if n <= 3 else 128, key)
  assert_equal(found, expected)


@pytest.mark.parametrize(
  "n, seed, estimator", [(2, 3, "mmd"), (2, 3, "dhsic"), (3, 3, "mmd")]
)
def test_no_slope_is_left(n, seed, estimator):
  """Catches a gradient made of rounding where the exact one is zero.

  Two standardised rows are always equally far apart, and three rows whose
  codebooks change places together are the same rows.
  """
  z = dependent_codes(n, noise=0.5)[None]
  kernel = GaussianKernel((0.5, 5.0, 20.0))
  key = jax.random.key(seed)
  value, gradient, _ = reference.loss(z, key, kernel, estimator)
  assert np.abs(gradient).max() < 1e-7
  found = both(z, kernel, estimator, 512, key)
  assert abs(found[0] - value) <= 1e-6
  assert jnp.abs(found[1]).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["mmd", "dhsic"])
@pytest.mark.parametrize("n, dim", [(1024, 512), (2048, 16)])
def test_loss_of_many_rows(n, dim, estimator):
  """Catches errors that add up with the rows."""
  z = dependent_codes(n, dim=dim)[None]
  kernel = GaussianKernel()
  expected = reference.loss(z, KEY, kernel, estimator)
  assert_equal(both(z, kernel, estimator, 512), expected)


@pytest.mark.parametrize(
  "name, unbiased",
  [("gaussian", True), ("laplacian", False), ("quadratic", False)],
)
def test_two_samples(name, unbiased):
  """Catches a wrong weight of the diagonals or of samples of two sizes."""
  kernel = KERNELS[name]
  x = dependent_codes(150, 1)[:, 0]
  y = dependent_codes(61, 1, seed=1)[:, 0]
  found, slopes = jax.jit(
    jax.value_and_grad(
      lambda x, y: mmd2(x, y, kernel, unbiased=unbiased, block_size=64), (0, 1)
    )
  )(x, y)
  value, gradients, size = reference.mmd2(x, y, kernel, unbiased)
  for one, other in zip(slopes, gradients, strict=True):
    assert_equal((found, one), (value, other, size))


@pytest.mark.parametrize(
  "name, unbiased",
  [("laplacian", True), ("gaussian", False), ("quadratic", False)],
)
def test_rows_of_codebooks(name, unbiased):
  """Catches a wrong diagonal, and three codebooks taken for two."""
  kernel = KERNELS[name]
  z = dependent_codes(150, 3)
  f = lambda z: dhsic(z, kernel, unbiased=unbiased, block_size=64)
  found = jax.jit(jax.value_and_grad(f))(z)
  assert_equal(found, reference.dhsic(z, kernel, unbiased))


def test_near_rows_are_not_equal():
  """Catches distances lost in rounding: code vectors close to one another."""
  z = dependent_codes(200, 2, 16, noise=0.02)[None]
  for estimator in ("mmd", "dhsic"):
    kernel = GaussianKernel((0.3, 2.0))
    expected = reference.loss(z, KEY, kernel, estimator)
    assert_equal(both(z, kernel, estimator), expected, 1e-4, 1e-4)


@pytest.mark.parametrize("estimator", MMD_FIRST)
def test_block_size_does_not_matter(estimator):
  """Catches pairs met twice or never, where blocks are filled up."""
  z, kernel = dependent_codes(300)[None], GaussianKernel((2.0, 8.0))
  expected = reference.loss(z, KEY, kernel, estimator)
  for block in (300, 64, 512):
    assert_equal(both(z, kernel, estimator, block), expected)


@pytest.mark.parametrize("estimator", MMD_FIRST)
def test_devices_do_not_matter(estimator):
  """Catches pairs lost between devices, other permutations, partial sums.

  The tiles are no multiple of the devices, the rows none of the blocks.
  """
  z = dependent_codes(8 * 41).reshape(8, 41, 2, 16)
  kernel = GaussianKernel((1.0,), relative=True)
  # In float64: one device and eight each round the sums in their own order.
  expected = reference.loss(z, KEY, kernel, estimator)
  assert_equal(both(z, kernel, estimator, 64), expected)
  for shape in ({"data": 8}, {"fsdp": 4, "model": 2}):
    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
      spread = jax.device_put(z, batch_sharding(mesh))
      found = both(spread, kernel, estimator, 64)
    assert_equal(found, expected)


@pytest.mark.parametrize("estimator", MMD_FIRST)
def test_transformations(estimator):
  """Catches what JAX's transformations can't take: vmap, scan, checkpoint."""
  kernel = GaussianKernel((2.0, 8.0))
  z = dependent_codes(120).reshape(2, 60, 2, 16)
  loss = lambda z: independence_loss(
    z[None], KEY, kernel=kernel, estimator=estimator, block_size=32
  )
  each = jax.value_and_grad(loss)
  value, gradient = jax.jit(jax.vmap(each))(z)

  def step(carry, z):
    found = jax.value_and_grad(jax.checkpoint(loss))(z)
    return carry + found[0], found

  total, (other, slope) = jax.jit(lambda z: jax.lax.scan(step, 0.0, z))(z)
  np.testing.assert_allclose(other, value, rtol=1e-5)
  np.testing.assert_allclose(total, value.sum(), rtol=1e-5)
  np.testing.assert_allclose(slope, gradient, atol=1e-5 * gradient.max())
  expected = reference.loss(z[1:], KEY, kernel, estimator)
  assert_equal((value[1], gradient[1:]), expected)


@pytest.mark.parametrize("estimator", ["mmd", "dhsic"])
def test_bfloat16_streams(estimator):
  """Catches sums in bfloat16, and a gradient of another type."""
  z = jnp.asarray(dependent_codes(257)[None], jnp.bfloat16)
  kernel = KERNELS["gaussian"]
  value, gradient = both(z, kernel, estimator)
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  expected = reference.loss(np.asarray(z, np.float64), KEY, kernel, estimator)
  assert_equal((value, gradient), expected, gradient=1e-2)
