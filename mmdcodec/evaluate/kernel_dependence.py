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
"""

import dataclasses
import functools

import jax
import numpy as np

from mmdcodec.evaluate.code_rows import Rows
from mmdcodec.quantize import independence, kernels

ROWS = 2048  # looked at; all pairs of them are
SHUFFLES = 8
# In units of the median distance, for two codebooks.
RADII = (0.5, 1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class KernelDependence:
  """Kernel measures of the vectors of rows.

  Attributes:
    normalised: dHSIC from 0 (independent) to 1 (equal vectors), with a kernel
      whose radii are relative to the data.
    null: mean of the same for shuffled codes; what chance gives.
    null_error: standard deviation of the same, over the shuffles.
    loss: the independence loss itself with the paper's kernel, without the
      noise of permutations.
  """

  normalised: float
  null: float
  null_error: float
  loss: float


def kernel_dependence(
  streams: np.ndarray, rows: Rows, *, seed: int = 0, limit: int = ROWS
) -> KernelDependence:
  """Kernel measures on rows spread evenly over all clips.

  Args:
    streams: [clips, frames, codebooks, dim], vector of each codebook.
    rows: which of them stand together, from `code_rows.gather`.
    seed: of the shuffles.
    limit: at most so many rows; time goes with its square.

  Returns:
    See `KernelDependence`.
  """
  random = np.random.default_rng(seed)
  count, books = rows.codes.shape
  chosen = np.arange(min(count, limit)) * count // min(count, limit)
  held = np.asarray(rows.codebooks)

  def vectors(order=None):
    """[chosen rows, k, dim], of all codebooks in order or each in its own."""
    order = np.arange(count)[:, None] if order is None else order
    order, column = np.broadcast_arrays(order[chosen], np.arange(books))
    clip, frame = rows.clip[order], rows.frames[order, column]
    return np.asarray(streams[clip, frame, held], np.float32)

  # Distances of k vectors add up, and so must the squares of the radii.
  wide = tuple(r * (books / 2) ** 0.5 for r in RADII)
  kernel = kernels.GaussianKernel(wide, relative=True)
  value = functools.partial(_dhsic, kernel=kernel)
  z = vectors()
  copies = [float(value(z[:, [k] * books])) for k in range(books)]
  # A codebook with one code in use depends on nothing; rounding is left of it.
  used = rows.codes[chosen]
  idle = (used == used[0]).all(0).any() or min(copies) <= 0
  scale = np.inf if idle else float(np.exp(np.mean(np.log(copies))))
  chance = [
    float(value(vectors(rows.shuffled(random)))) / scale
    for _ in range(SHUFFLES)
  ]
  return KernelDependence(
    normalised=float(value(z)) / scale,
    null=float(np.mean(chance)),
    null_error=float(np.std(chance, ddof=1)),
    loss=float(_dhsic(z, kernel=kernels.GaussianKernel())),
  )


@functools.partial(jax.jit, static_argnames="kernel")
def _dhsic(z, *, kernel):
  """The independence loss of rows [rows, k, dim] in its closed form."""
  return independence.independence_loss(
    z[None], jax.random.key(0), kernel=kernel, estimator="dhsic"
  )
