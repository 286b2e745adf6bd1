"""Kernels between code vectors, for the losses in `independence.py`.

A kernel is a sum over several scales, k = sum_s k_s. Each k_s is a function of
one number u per pair of vectors: their squared distance |x - y|^2, or their
product <x, y> / d. `terms` gives k_s and its derivative for an array of such
numbers, which is all that the sums over pairs (`pairs.py`) need.

With `relative=True` the unit of the radii is the median distance between the
vectors of a codebook (the median heuristic).
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

# Printed in arXiv 2406.02315, section 3.
PAPER_RADII = (0.1, 1.0, 5.0, 10.0, 20.0, 50.0)

# The power p of an exponential has p times its relative error of 6e-8.
_LARGEST_POWER = 8


class Kernel(abc.ABC):
  """The interface of all kernels.

  Attributes:
    of: what u is, "distance" (squared) or "product".
    relative: radii are in units of the median distance.
    scales: number of terms.
    multiplies: whether k_s(u) k_s(v) = k_s(u + v).
    nowhere: the u at which every k_s is 0, for pairs that do not count.
  """

  of: ClassVar[str] = "distance"
  multiplies: ClassVar[bool] = False
  relative: bool = False

  @property
  def nowhere(self) -> float:
    """Infinite distance."""
    return math.inf

  @property
  def scales(self) -> int:
    """Number of terms of the sum."""
    return 1

  @abc.abstractmethod
  def roots(self, u: jax.Array) -> list[jax.Array]:
    """The costly functions of u; `terms` is plain arithmetic on them."""

  @abc.abstractmethod
  def terms(
    self, roots: list[jax.Array]
  ) -> tuple[list[jax.Array], list[jax.Array]]:
    """k_s and dk_s/du of every scale, from the roots."""

  def values(self, u: jax.Array) -> list[jax.Array]:
    """k_s of u, one array for each scale."""
    return self.terms(self.roots(u))[0]


def _check_radii(radii: float | Sequence[float]) -> tuple[float, ...]:
  if isinstance(radii, (int, float)):
    radii = (radii,)
  radii = tuple(float(r) for r in radii)
  # The squares and their inverses must fit into float32.
  if not radii or not all(1e-12 < r < 1e12 for r in radii):
    raise ValueError(f"radii are {radii}; expected numbers from 1e-12 to 1e12")
  return radii


@dataclasses.dataclass(frozen=True)
class RadialKernel(Kernel):
  """A kernel of the distance with one scale per radius.

  Attributes:
    radii: one number or several, as printed in the paper.
    relative: radii are in units of the median distance.
  """

  radii: tuple[float, ...] = PAPER_RADII
  relative: bool = False

  def __post_init__(self) -> None:
    object.__setattr__(self, "radii", _check_radii(self.radii))

  @property
  def scales(self) -> int:
    """Number of radii."""
    return len(self.radii)


@dataclasses.dataclass(frozen=True)
class GaussianKernel(RadialKernel):
  """sum_s exp(-|x - y|^2 / (2 radius_s^2)), arXiv 2406.02315, section 3.

  A product over codebooks of Gaussians with one radius is the Gaussian of the
  concatenated vectors. The radii are standard deviations.
  """

  multiplies: ClassVar[bool] = True

  @classmethod
  def released(cls) -> "GaussianKernel":
    """The radii of the paper's code, which uses the numbers as radius^2."""
    return cls(tuple(r**0.5 for r in PAPER_RADII))

  def roots(self, u: jax.Array) -> list[jax.Array]:
    """The exponentials that are not powers of a wider radius's."""
    # The maximum changes nothing, but keeps XLA from turning products of
    # exponentials into exponentials of sums.
    return [
      jnp.maximum(jnp.exp(u * (-0.5 / self.radii[scale] ** 2)), 0.0)
      for scale, base, _ in _exponentials(self.radii)
      if base is None
    ]

  def terms(
    self, roots: list[jax.Array]
  ) -> tuple[list[jax.Array], list[jax.Array]]:
    """Powers of the exponentials; slopes -k_s / (2 radius_s^2)."""
    values: list[jax.Array] = [roots[0]] * self.scales
    left = list(roots)
    for scale, base, power in _exponentials(self.radii):
      if base is None:
        values[scale] = left.pop(0)
      else:
        values[scale] = jax.lax.integer_pow(values[base], power)
    slopes = [
      v * (-0.5 / r**2) for v, r in zip(values, self.radii, strict=True)
    ]
    return values, slopes


def _exponentials(
  radii: Sequence[float],
) -> list[tuple[int, int | None, int]]:
  """Plans how to compute exp(-u / (2 r^2)) of all radii from few exponentials.

  It goes from the widest to the narrowest radius. If 1 / r^2 is a whole
  multiple of that of a wider radius, the exponential is a power of the wider
  one's, as long as powers of powers stay small.

  Returns:
    (scale, the scale it is a power of or None, power), in order.
  """
  plan: list[tuple[int, int | None, int]] = []
  total: dict[int, int] = {}
  for scale in sorted(range(len(radii)), key=lambda s: -radii[s]):
    best: tuple[int | None, int] = (None, 1)
    for base, done in total.items():
      ratio = (radii[base] / radii[scale]) ** 2
      power = round(ratio)
      whole = abs(ratio - power) < 1e-6 * ratio
      if whole and power * done <= _LARGEST_POWER:
        if best[0] is None or power < best[1]:
          best = (base, power)
    plan.append((scale, *best))
    total[scale] = best[1] * (1 if best[0] is None else total[best[0]])
  return plan


@dataclasses.dataclass(frozen=True)
class LaplacianKernel(RadialKernel):
  """sum_s exp(-|x - y| / radius_s), with the Euclidean distance.

  The slope at equal vectors is 0, a subgradient.
  """

  def roots(self, u: jax.Array) -> list[jax.Array]:
    """1 / distance (0 for 0), and an exponential for each radius."""
    distance = jnp.sqrt(u)
    inverse = jnp.where(u > 0, jax.lax.rsqrt(jnp.where(u > 0, u, 1.0)), 0.0)
    return [inverse, *(jnp.exp(distance * (-1.0 / r)) for r in self.radii)]

  def terms(
    self, roots: list[jax.Array]
  ) -> tuple[list[jax.Array], list[jax.Array]]:
    """Slopes -k_s / (2 radius_s |x - y|)."""
    inverse, *values = roots
    return values, [
      v * inverse * (-0.5 / r) for v, r in zip(values, self.radii, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class InverseMultiquadricKernel(RadialKernel):
  """sum_s (1 + |x - y|^2 / radius_s^2)^(-1/2)."""

  def roots(self, u: jax.Array) -> list[jax.Array]:
    """The values themselves."""
    return [jax.lax.rsqrt(1.0 + u * r**-2) for r in self.radii]

  def terms(
    self, roots: list[jax.Array]
  ) -> tuple[list[jax.Array], list[jax.Array]]:
    """Slopes -k_s^3 / (2 radius_s^2)."""
    return roots, [
      v * v * v * (-0.5 / r**2) for v, r in zip(roots, self.radii, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class LinearKernel(Kernel):
  """<x, y> / d: compares means only.

  Permuting a codebook does not change its mean, so the permuted MMD of this
  kernel detects no dependence. It exists for the paper's ablation.
  """

  of: ClassVar[str] = "product"
  nowhere: ClassVar[float] = 0.0

  def roots(self, u: jax.Array) -> list[jax.Array]:
    """The product itself."""
    return [u]

  def terms(
    self, roots: list[jax.Array]
  ) -> tuple[list[jax.Array], list[jax.Array]]:
    """Slope 1."""
    return roots, [jnp.ones_like(roots[0])]


@dataclasses.dataclass(frozen=True)
class QuadraticKernel(Kernel):
  """(<x, y> / d + offset)^2: compares means and correlations only."""

  of: ClassVar[str] = "product"
  offset: float = 1.0

  @property
  def nowhere(self) -> float:
    """Where the square is 0."""
    return -self.offset

  def roots(self, u: jax.Array) -> list[jax.Array]:
    """The number to square."""
    return [u + self.offset]

  def terms(
    self, roots: list[jax.Array]
  ) -> tuple[list[jax.Array], list[jax.Array]]:
    """Slope: twice the root."""
    return [roots[0] * roots[0]], [2.0 * roots[0]]


KERNELS = {
  "gaussian": GaussianKernel,
  "laplacian": LaplacianKernel,
  "inverse_multiquadric": InverseMultiquadricKernel,
  "linear": LinearKernel,
  "quadratic": QuadraticKernel,
}
