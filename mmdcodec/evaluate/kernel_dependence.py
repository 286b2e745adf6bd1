"""Dependence of code vectors as the independence loss sees it, from 0 to 1.

dHSIC (Pfister et al. 2018) is the squared distance in kernel space between the
joint distribution of the codebooks' vectors and the product of their
marginals: the mean over all permutations of arXiv 2406.02315's MMD^2. Its size
depends on the kernel and the code, so it is divided by what it would be if
every codebook were a copy of the others, by geometric mean over the codebooks:

    dHSIC(z_1, ..., z_K) / prod_k dHSIC(z_k, ..., z_k)^(1/K)

For two codebooks this is normalised HSIC, also known as centred kernel
alignment (Cortes et al. 2012; Kornblith et al. 2019). 0 is independent, and 1
that each codebook tells all others and their vectors lie at the same distances
of one another. Codes that tell all others through a table come to less.

A codebook that is idle, of which one vector is (nearly) always in use, depends
on nothing and would make the denominator (nearly) 0. It is left out, and the
rest is compared. For more than two codebooks 1 is no strict bound: those that
are used little shrink the denominator more than the numerator.
"""

import dataclasses
import functools

import jax
import numpy as np

from mmdcodec.evaluate.code_rows import Rows
from mmdcodec.quantize import independence, kernels

ROWS = 2048  # looked at; all pairs of them are
SHUFFLES = 8
IDLE = 0.95  # share of the rows that have the same vector, or more
# In units of the median distance, for two codebooks.
RADII = (0.5, 1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class KernelDependence:
  """Kernel measures of the vectors of rows.

  Attributes:
    normalised: dHSIC from 0 (independent) to 1 (equal vectors), with a kernel
      whose radii are relative to the data, of the codebooks that are not idle;
      NaN if fewer than two are left.
    null: mean of the same for shuffled codes; what chance gives.
    null_error: standard deviation of the same, over the shuffles.
    loss: the independence loss itself with the paper's kernel, without the
      noise of permutations, of all codebooks.
  """

  normalised: float
  null: float
  null_error: float
  loss: float


def kernel_dependence(
  vectors: np.ndarray, rows: Rows, *, seed: int = 0, limit: int = ROWS
) -> KernelDependence:
  """Kernel measures on rows spread evenly over all clips.

  Args:
    vectors: [codebooks, size, dim], the vector of each code.
    rows: which codes stand together, from `code_rows.gather`.
    seed: of the shuffles.
    limit: at most so many rows; time goes with its square.

  Returns:
    See `KernelDependence`.
  """
  random = np.random.default_rng(seed)
  count, books = rows.codes.shape
  chosen = np.arange(min(count, limit)) * count // min(count, limit)
  held = np.asarray(rows.codebooks)

  def look_up(codes):
    """Vectors [chosen rows, k, dim] of codes [chosen rows, k]."""
    return np.asarray(vectors[held, codes], np.float32)

  z = look_up(rows.codes[chosen])
  loss = float(_dhsic(z, kernel=kernels.GaussianKernel()))
  most = [
    np.unique(z[:, k], axis=0, return_counts=True)[1].max() / len(z)
    for k in range(books)
  ]
  busy = np.flatnonzero(np.array(most) < IDLE)
  if len(busy) < 2:
    return KernelDependence(np.nan, np.nan, np.nan, loss)
  # Distances of k vectors add up, and so must the squares of the radii.
  wide = tuple(r * (len(busy) / 2) ** 0.5 for r in RADII)
  kernel = kernels.GaussianKernel(wide, relative=True)
  value = functools.partial(_dhsic, kernel=kernel)
  copies = [float(value(z[:, [k] * len(busy)])) for k in busy]
  scale = float(np.exp(np.mean(np.log(copies))))
  chance = []
  for _ in range(SHUFFLES):
    order = rows.shuffled(random)[chosen]
    shuffled = look_up(rows.codes[order, np.arange(books)])
    chance.append(float(value(shuffled[:, busy])) / scale)
  return KernelDependence(
    normalised=float(value(z[:, busy])) / scale,
    null=float(np.mean(chance)),
    null_error=float(np.std(chance, ddof=1)),
    loss=loss,
  )


@functools.partial(jax.jit, static_argnames="kernel")
def _dhsic(z, *, kernel):
  """The independence loss of rows [rows, k, dim] in its closed form."""
  return independence.independence_loss(
    z[None], jax.random.key(0), kernel=kernel, estimator="dhsic"
  )
