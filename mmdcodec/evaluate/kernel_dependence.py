"""Measures dependence of code vectors by the independence loss, scaled to 0..1.

dHSIC (Pfister et al. 2018, arXiv 1603.00285) is the squared distance in kernel
space between the joint distribution of the codebooks' vectors and the product
of their marginals: the mean over all permutations of the MMD^2 of arXiv
2406.02315. Its size depends on the kernel and the codes, so it is divided by
its value for copies of one codebook (geometric mean over the codebooks):

    dHSIC(z_1, ..., z_K) / prod_k dHSIC(z_k, ..., z_k)^(1/K)

For two codebooks this is normalised HSIC, also known as centred kernel
alignment (Cortes et al. 2012; Kornblith et al. 2019). 0 means independent. 1
means that each codebook determines all others and that their vectors have the
same distances to each other. If codebooks determine each other but distances
differ, the value is lower.

An idle codebook, with one vector in (nearly) all rows, is trivially independent
and would make the denominator (nearly) 0, so it is left out. For more than two
codebooks 1 is not a strict bound: codebooks with low usage shrink the
denominator more than the numerator.
"""

import dataclasses
import functools

import jax
import numpy as np

from mmdcodec.evaluate.code_rows import Rows
from mmdcodec.quantize import independence, kernels

ROWS = 2048  # maximum; the cost grows with its square
SHUFFLES = 8
IDLE = 0.95  # share of rows with the same vector
# In units of the median distance, for two codebooks.
RADII = (0.5, 1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class KernelDependence:
  """Kernel measures of rows of vectors.

  Attributes:
    normalised: dHSIC from 0 (independent) to 1 (equal vectors) of the codebooks
      that are not idle, with radii relative to the data; NaN if fewer than two
      are left.
    null: mean of `normalised` over shuffled codes, its value by chance.
    null_error: standard deviation of `normalised` over the shuffles.
    loss: the independence loss ("dhsic", the paper's kernel) of all codebooks.
  """

  normalised: float
  null: float
  null_error: float
  loss: float


def kernel_dependence(
  vectors: np.ndarray, rows: Rows, *, seed: int = 0, limit: int = ROWS
) -> KernelDependence:
  """Computes kernel measures on rows spread evenly over all clips.

  Args:
    vectors: [codebooks, size, dim], the vector of each code.
    rows: rows from `code_rows.gather`.
    seed: seed of the shuffles.
    limit: maximum number of rows; the time grows with its square.

  Returns:
    `KernelDependence`.
  """
  random = np.random.default_rng(seed)
  count, books = rows.codes.shape
  chosen = np.arange(min(count, limit)) * count // min(count, limit)
  columns = np.asarray(rows.codebooks)

  def look_up(codes: np.ndarray) -> np.ndarray:
    """Looks up vectors [chosen rows, k, dim] of codes [chosen rows, k]."""
    return np.asarray(vectors[columns, codes], np.float32)

  z = look_up(rows.codes[chosen])
  loss = float(_dhsic(z, kernel=kernels.GaussianKernel()))
  most = [
    np.unique(z[:, k], axis=0, return_counts=True)[1].max() / len(z)
    for k in range(books)
  ]
  active = np.flatnonzero(np.array(most) < IDLE)
  if len(active) < 2:
    return KernelDependence(np.nan, np.nan, np.nan, loss)
  # Squared distances add up over the codebooks, so squared radii must too.
  wide = tuple(r * (len(active) / 2) ** 0.5 for r in RADII)
  kernel = kernels.GaussianKernel(wide, relative=True)
  value = functools.partial(_dhsic, kernel=kernel)
  copies = [float(value(z[:, [k] * len(active)])) for k in active]
  scale = float(np.exp(np.mean(np.log(copies))))
  chance = []
  for _ in range(SHUFFLES):
    order = rows.shuffled(random)[chosen]
    shuffled = look_up(rows.codes[order, np.arange(books)])
    chance.append(float(value(shuffled[:, active])) / scale)
  return KernelDependence(
    normalised=float(value(z[:, active])) / scale,
    null=float(np.mean(chance)),
    null_error=float(np.std(chance, ddof=1)),
    loss=loss,
  )


@functools.partial(jax.jit, static_argnames="kernel")
def _dhsic(z: jax.Array, *, kernel: kernels.Kernel) -> jax.Array:
  """Computes the independence loss "dhsic" of rows [rows, k, dim]."""
  return independence.independence_loss(
    z[None], jax.random.key(0), kernel=kernel, estimator="dhsic"
  )
