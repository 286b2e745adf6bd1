"""Checks of the independence losses, their kernels, and the balancer."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec.losses import balancer
from mmdcodec.quantize import independence, kernels, pallas_pairs
from mmdcodec.selftest import references
from mmdcodec.selftest.check import (
  Check,
  Devices,
  both_ways,
  normal,
  off,
  slopes_off,
)
from mmdcodec.selftest.references import wide

_RADII = (2.0, 4.0, 8.0)
# Two blocks of two parts each, and rows that fill neither.
_ROWS, _BLOCK = 400, 256
# Each kernel, and its terms from the definition.
_KERNELS: dict[str, tuple[kernels.Kernel, references.Terms]] = {
  "Gaussian": (
    kernels.GaussianKernel(_RADII),
    lambda u: [np.exp(-u / (2 * r**2)) for r in _RADII],
  ),
  "Laplacian": (
    kernels.LaplacianKernel(_RADII),
    lambda u: [np.exp(-np.sqrt(u) / r) for r in _RADII],
  ),
  "inverse multiquadric": (
    kernels.InverseMultiquadricKernel(_RADII),
    lambda u: [(1 + u / r**2) ** -0.5 for r in _RADII],
  ),
  "quadratic": (kernels.QuadraticKernel(), lambda u: [(u + 1) ** 2]),
}


def _rows() -> np.ndarray:
  """Dependent codebooks: [rows, 2, 16]."""
  z = normal(_ROWS, 2, 16)
  z[:, 1] = 0.6 * z[:, 0] + 0.8 * z[:, 1]
  return z


def _measure(
  of_mmd: Sequence[str], of_dhsic: Sequence[str]
) -> dict[str, float]:
  """Compares the losses with these kernels, forward and backward."""
  z, scalar, found = _rows(), np.ones(()), {}
  x, y = z.reshape(_ROWS, -1), z[::-1].reshape(_ROWS, -1) * 1.2 + 0.1
  for name in of_mmd:
    kernel, terms = _KERNELS[name]
    found |= both_ways(
      f"mmd, {name}",
      functools.partial(
        independence.mmd2, kernel=kernel, block_size=_BLOCK
      ),
      functools.partial(
        references.mmd, terms=terms, product=kernel.of == "product"
      ),
      (x, y),
      scalar,
    )
  for name in of_dhsic:
    kernel, terms = _KERNELS[name]
    found |= both_ways(
      f"dhsic, {name}",
      functools.partial(
        independence.dhsic, kernel=kernel, block_size=_BLOCK
      ),
      functools.partial(references.dhsic, terms=terms),
      (z,),
      scalar,
    )
  return found


def tiles(devices: Devices) -> dict[str, float]:
  """Values and gradients as the device computes them."""
  return _measure(["Gaussian"], ["Gaussian"])


def others(devices: Devices) -> dict[str, float]:
  """The same of other kernels, radial ones and one of products."""
  return _measure([name for name in _KERNELS if name != "Gaussian"], [])


def interpreted(devices: Devices) -> dict[str, float]:
  """The same by Pallas's interpreter, where no Pallas kernel runs."""
  if devices.tested.platform == "tpu":
    return {}
  with pallas_pairs.interpreted():
    return _measure(["Gaussian"], ["Gaussian"])


def sharded(devices: Devices) -> dict[str, float]:
  """Of rows on several devices."""
  others = jax.devices(devices.tested.platform)
  if len(others) < 2:
    return {}
  from mmdcodec.parallel import mesh as mesh_lib

  z, (kernel, terms) = _rows(), _KERNELS["Gaussian"]
  both: Any = jax.value_and_grad(
    lambda z: independence.dhsic(z, kernel, block_size=_BLOCK // 2)
  )
  count = max(n for n in (2, 4, 8) if n <= len(others))
  mesh = mesh_lib.make_mesh(dict(data=count), others[:count])
  with jax.set_mesh(mesh):
    value, slope = jax.jit(lambda z: both(z))(
      jax.device_put(z, mesh_lib.batch_sharding(mesh))
    )
  reference = functools.partial(references.dhsic, terms=terms)
  return {
    f"dhsic on {count} devices": off(value, reference(wide(z))),
    f"its gradient on {count} devices": slopes_off(
      reference, (z,), (slope,), np.ones(())
    ),
  }


def balance(devices: Devices) -> dict[str, float]:
  """Gradients of two losses, over two steps."""
  weights = {"one": 3.0, "two": 1.0}
  steps = [
    {"one": normal(2, 50, 1, seed=i), "two": 100 * normal(2, 50, 1, seed=9 + i)}
    for i in range(2)
  ]
  state = balancer.init(weights)
  step = jax.jit(
    lambda state, grads: balancer.balance(state, grads, weights, decay=0.9)
  )
  sums, seen = dict.fromkeys(weights, 0.0), 0.0
  for grads in steps:
    gradient, state, _ = step(state, grads)
    seen = 0.9 * seen + 1
    for name, g in grads.items():
      norm = np.sqrt((wide(g) ** 2).sum((1, 2))).mean()
      sums[name] = 0.9 * sums[name] + norm
  wanted = sum(
    w / 4 / (sums[name] / seen) * wide(steps[-1][name])
    for name, w in weights.items()
  )
  return {"the gradient": off(gradient, wanted)}


_PAIRS = "equal sums over all pairs of rows in float64"
CHECKS = (
  # The value is what is left of means that nearly cancel.
  Check("independence loss", _PAIRS, tiles, 1e-4),
  Check("independence loss, Pallas interpreter", _PAIRS, interpreted, 1e-4),
  Check("independence loss, other kernels", _PAIRS, others, 1e-4),
  Check("independence loss, several devices", _PAIRS, sharded, 1e-4),
  Check("balancer", "weigh gradients by their running norms", balance),
)
