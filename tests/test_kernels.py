"""Kernels: values and slopes against float64, radii, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
import reference_independence as reference

from mmdcodec.quantize.kernels import (
  KERNELS,
  PAPER_RADII,
  GaussianKernel,
  InverseMultiquadricKernel,
  LaplacianKernel,
  LinearKernel,
  QuadraticKernel,
)

OF_RADII = (GaussianKernel, LaplacianKernel, InverseMultiquadricKernel)
BANKS = [
  *(kernel() for kernel in KERNELS.values()),
  GaussianKernel.released(),
  *(kernel((2.0, 0.3, 0.7), relative=True) for kernel in OF_RADII),
  QuadraticKernel(offset=0.5),
]
# All twos, threes and fives of one another, in no order, one of them twice.
POWERS = GaussianKernel((3.0, 6.0, 1.0, 2.0, 1.0, 0.5, 5.0, 3.0 / 5**0.5))


def numbers(kernel):
  """Squared distances from 0 to 3,000, or products of either sign."""
  if kernel.of == "product":
    return np.linspace(-40, 40, 401).astype(np.float32)
  return np.concatenate([[0.0], np.geomspace(1e-4, 3e3, 400)]).astype(
    np.float32
  )


@pytest.mark.parametrize("kernel", [*BANKS, POWERS], ids=repr)
def test_terms_are_the_definitions(kernel):
  """Catches a wrong exponent, scale, order of the scales or power."""
  u = numbers(kernel)
  values, slopes = kernel.terms(kernel.roots(jnp.asarray(u)))
  expected = reference.terms(kernel, u.astype(np.float64))
  assert len(values) == len(slopes) == kernel.scales == len(expected[0])
  # exp(x) has x times the rounding error of x.
  for found, wanted in zip((values, slopes), expected, strict=True):
    for one, other in zip(found, wanted, strict=True):
      size = np.abs(other).max()
      np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7 * size)


@pytest.mark.parametrize("kernel", [*BANKS, POWERS], ids=repr)
def test_slopes_are_derivatives(kernel):
  """Catches a slope that belongs to another function, in the reference too."""
  u = numbers(kernel).astype(np.float64)[1:]
  step = 1e-3 * np.abs(u) + 1e-9
  after, before = (reference.terms(kernel, u + s)[0] for s in (step, -step))
  _, found = reference.terms(kernel, u)
  np.testing.assert_allclose(
    found, (after - before) / (2 * step), rtol=1e-2, atol=1e-6
  )


@pytest.mark.parametrize("kernel", [*BANKS, POWERS], ids=repr)
def test_nowhere_counts_nothing(kernel):
  """Catches NaN or a value other than 0 for pairs that are left out."""
  values, slopes = kernel.terms(kernel.roots(jnp.float32(kernel.nowhere)))
  assert all(v == 0 for v in values)
  assert all(np.isfinite(s) for s in slopes)


def test_published_radii():
  """Catches the paper's and the released code's reading taken for the other."""
  u = jnp.float32(7.0)
  paper = GaussianKernel().values(u)
  released = GaussianKernel.released().values(u)
  assert GaussianKernel().radii == PAPER_RADII == (0.1, 1, 5, 10, 20, 50)
  for radius, one, other in zip(PAPER_RADII, paper, released, strict=True):
    np.testing.assert_allclose(one, np.exp(-3.5 / radius**2), 1e-5, 1e-30)
    np.testing.assert_allclose(other, np.exp(-3.5 / radius), 1e-5, 1e-30)


def test_few_exponentials():
  """Catches a bank whose powers are all computed anew."""
  u = jnp.ones(())
  assert len(GaussianKernel().roots(u)) == 5
  assert len(GaussianKernel.released().roots(u)) == 4
  assert len(GaussianKernel((1.0, 1.3)).roots(u)) == 2


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_product_kernels_of_a_product(name):
  """Catches an offset or a power in the wrong place."""
  (value,) = KERNELS[name]().values(jnp.float32(3.0))
  assert value == {"linear": 3.0, "quadratic": 16.0}[name]
  assert KERNELS[name]().of == "product"
  assert not KERNELS[name]().relative
  assert isinstance(KERNELS["linear"](), LinearKernel)


@pytest.mark.parametrize("make", OF_RADII)
@pytest.mark.parametrize(
  "radii",
  [(), (0.0,), (1.0, -1.0), (np.nan,), (np.inf,), (0.9e-12,), (1.1e12,)],
)
def test_impossible_radii(make, radii):
  """Catches radii that give NaN in the middle of a training run."""
  with pytest.raises(ValueError, match="radii"):
    make(radii)


@pytest.mark.parametrize("make", OF_RADII)
@pytest.mark.parametrize("radius", [1.1e-12, 0.9e12])
def test_extreme_radii(make, radius):
  """Catches a rate beyond float32, infinite times a distance of 0."""
  kernel = make((radius,))
  u = np.float32([0.0, radius**2])
  found = kernel.terms(kernel.roots(jnp.asarray(u)))
  expected = reference.terms(kernel, u.astype(np.float64))
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
  for distance in (1.0, kernel.nowhere):
    values, slopes = kernel.terms(kernel.roots(jnp.float32(distance)))
    assert np.isfinite(values[0]) and np.isfinite(slopes[0])


@pytest.mark.parametrize("make", OF_RADII)
def test_radii_of_any_sequence(make):
  """Catches a kernel that can't be an argument that is not traced."""
  assert make([1, 2]) == make(np.array([1.0, 2.0])) == make((1.0, 2.0))
  assert hash(make([1, 2])) == hash(make((1.0, 2.0)))
