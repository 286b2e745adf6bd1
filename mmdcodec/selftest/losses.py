"""Checks of the independence losses, their kernels, and the balancer."""

from typing import Any

import jax
import numpy as np

from mmdcodec.losses import balancer
from mmdcodec.quantize import independence, pallas_pairs
from mmdcodec.quantize.kernels import GaussianKernel
from mmdcodec.selftest import references
from mmdcodec.selftest.check import Check, Devices, normal, off
from mmdcodec.selftest.references import wide

_RADII = (2.0, 4.0, 8.0)
# Two blocks of two parts each, and rows that fill neither.
_ROWS, _BLOCK = 400, 256


def _rows() -> np.ndarray:
  """Dependent codebooks: [rows, 2, 16]."""
  z = normal(_ROWS, 2, 16)
  z[:, 1] = 0.6 * z[:, 0] + 0.8 * z[:, 1]
  return z


def _measure() -> dict[str, float]:
  z, kernel = _rows(), GaussianKernel(_RADII)

  def dhsic(z: jax.Array) -> jax.Array:
    return independence.dhsic(z, kernel, block_size=_BLOCK)

  def mmd(x: jax.Array, y: jax.Array) -> jax.Array:
    return independence.mmd2(x, y, kernel, block_size=_BLOCK)

  value, slope = jax.jit(jax.value_and_grad(dhsic))(z)
  wanted, wanted_slope = references.gaussian_dhsic(wide(z), _RADII)
  x, y = z.reshape(_ROWS, -1), z[::-1].reshape(_ROWS, -1) * 1.2 + 0.1
  found, slopes = jax.jit(jax.value_and_grad(mmd, (0, 1)))(x, y)
  of_mmd, *of_rows = references.gaussian_mmd(wide(x), wide(y), _RADII)
  return {
    "dhsic": abs(float(value) / wanted - 1),
    "the gradient of dhsic": off(slope, wanted_slope),
    "mmd": abs(float(found) / of_mmd - 1),
    "the gradient of mmd": off(np.concatenate(slopes), np.concatenate(of_rows)),
  }


def tiles(devices: Devices) -> dict[str, float]:
  """Value and gradient as the device computes them."""
  return _measure()


def kernel(devices: Devices) -> dict[str, float]:
  """The same by Pallas's interpreter, where no Pallas kernel runs."""
  if devices.tested.platform == "tpu":
    return {}
  with pallas_pairs.interpreted():
    return _measure()


def sharded(devices: Devices) -> dict[str, float]:
  """Of rows on several devices, and on one."""
  others = jax.devices(devices.tested.platform)
  if len(others) < 2:
    return {}
  from mmdcodec.parallel import mesh as mesh_lib

  z, kernel = _rows(), GaussianKernel(_RADII)
  both: Any = jax.value_and_grad(
    lambda z: independence.dhsic(z, kernel, block_size=_BLOCK // 2)
  )
  count = max(n for n in (2, 4, 8) if n <= len(others))
  mesh = mesh_lib.make_mesh(dict(data=count), others[:count])
  with jax.set_mesh(mesh):
    value, slope = jax.jit(lambda z: both(z))(
      jax.device_put(z, mesh_lib.batch_sharding(mesh))
    )
  wanted, wanted_slope = references.gaussian_dhsic(wide(z), _RADII)
  return {
    f"dhsic on {count} devices": abs(float(value) / wanted - 1),
    f"its gradient on {count} devices": off(slope, wanted_slope),
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
  Check("independence loss, Pallas interpreter", _PAIRS, kernel, 1e-4),
  Check("independence loss, several devices", _PAIRS, sharded, 1e-4),
  Check("balancer", "weigh gradients by their running norms", balance),
)
