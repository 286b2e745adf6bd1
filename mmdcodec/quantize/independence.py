"""Losses that make codebooks statistically independent (arXiv 2406.02315).

A language model that predicts several codebooks in one step treats them as
independent given the past. The loss measures how far the vectors z_1..z_K of
these codes are from independence: the squared maximum mean discrepancy (MMD)
between their joint distribution and the product of their marginals, which is 0
when they are independent.

  "mmd"    The paper's estimator (algorithm 1): it samples the product of the
           marginals by permuting each codebook over all rows (`mmd.py`).
  "dhsic"  The mean of that over all permutations, in closed form
           (`dhsic.py`): no permutation noise, and half of the pairs. It needs a
           kernel that is a product over the codebooks, such as a Gaussian of
           the concatenated vectors.

Both leave out the pairs of a row with itself. So their expectation is 0 when
the codebooks are independent, and an estimate may be below 0. It is not
clamped, because a clamp has no gradient there. Kernels: `kernels.py`. Rows:
`rows.py`. Sums over all pairs of rows: `pairs.py`.
"""

import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.parallel import mapped
from mmdcodec.parallel.mapped import AxisName
from mmdcodec.patterns import PatternMaker
from mmdcodec.quantize import rows
from mmdcodec.quantize.dhsic import dhsic, dhsic_of_rows
from mmdcodec.quantize.kernels import (
  KERNELS,
  GaussianKernel,
  InverseMultiquadricKernel,
  Kernel,
  LaplacianKernel,
  LinearKernel,
  QuadraticKernel,
)
from mmdcodec.quantize.mmd import mmd2, permuted_mmd2

__all__ = [
  "ESTIMATORS",
  "KERNELS",
  "GaussianKernel",
  "InverseMultiquadricKernel",
  "Kernel",
  "LaplacianKernel",
  "LinearKernel",
  "QuadraticKernel",
  "dhsic",
  "independence_loss",
  "mmd2",
]

ESTIMATORS = ("mmd", "dhsic")


def independence_loss(
  streams: jax.Array,
  key: jax.Array,
  *,
  pattern: PatternMaker | None = None,
  kernel: Kernel = GaussianKernel(),
  estimator: str = "mmd",
  mask: jax.Array | None = None,
  standardize: bool = True,
  block_size: int | None = None,
  axis_name: AxisName = None,
) -> jax.Array:
  """Dependence between the codebooks that a language model predicts together.

  Under a mesh the rows are those of the global batch.

  Args:
    streams: [batch, frames, codebooks, dim], one vector for each code, such as
      `Quantized.streams`.
    key: random key of the permutations ("mmd").
    pattern: pattern of the language model, from `mmdcodec.patterns`; None means
      all codebooks of a frame ("parallel").
    kernel: kernel between code vectors; the paper's by default.
    estimator: "mmd" or "dhsic", as the module docstring explains.
    mask: bool [batch, frames], False in padding; a row with a padded entry does
      not count.
    standardize: scale every coordinate to mean 0 and variance 1 over the rows,
      with gradient through both (as the paper's code does).
    block_size: rows in a block of the computation; None chooses.
    axis_name: inside `jax.shard_map` or `jax.pmap`, the mapped axes that divide
      the batch. The rows are then those of all devices, each device computes
      its share of the pairs, and the first device's key counts. Gradients are
      averaged over the devices with `lax.pmean` like those of any other loss;
      see `mmdcodec.parallel.mapped`.

  Returns:
    Scalar float32. A pattern with several kinds of steps gives the mean over
    them, weighted by their rows; 0 if no two codes are ever predicted together.

  Raises:
    ValueError: the estimator is unknown, or the shapes do not fit.
    UserError: a call inside `jax.shard_map` or `jax.pmap` without axis_name,
      or with one that cannot be.
  """
  if estimator not in ESTIMATORS:
    raise ValueError(f"estimator is {estimator!r}; choose from {ESTIMATORS}")
  bounds.check_shape(
    "streams", streams, batch=..., frames=..., codebooks=None, dim=None
  )
  mask = jnp.ones(streams.shape[:2], bool) if mask is None else mask
  batch, frames = streams.shape[:2]
  bounds.check_shape("mask", mask, batch=batch, frames=frames)
  rows.check_block(block_size)
  mapped.check_global(
    "the independence loss", axis_name, takes_name=True, rows=[streams]
  )
  streams, mask = (mapped.gather(x, axis_name) for x in (streams, mask))
  key = mapped.first(key, axis_name)
  total, count = jnp.float32(0.0), jnp.int32(0)
  for group, (z, valid) in enumerate(rows.of_streams(streams, mask, pattern)):
    if len(z) < 2:
      continue
    if standardize:
      z = rows.standardized(z, valid)
    else:
      (z,) = rows.centred(kernel, z)
    if estimator == "dhsic":
      value = dhsic_of_rows(z, valid, kernel, True, block_size, axis_name)
    else:
      value = permuted_mmd2(
        z,
        valid,
        jax.random.fold_in(key, group),
        kernel,
        block_size,
        axis_name,
      )
    total, count = total + value * valid.sum(), count + valid.sum()
  return mapped.mean(total / jnp.maximum(count, 1), axis_name)
