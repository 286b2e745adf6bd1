"""Targets that need no training: random projections, nearest random codes.

BEST-RQ (Chiu et al. 2022, arXiv 2202.01855, 3.1). A frozen random matrix
projects a frame's spectrum to a few dimensions, and the nearest vector of a
frozen random codebook is its target. Only directions count. Each dimension of
the input must have been standardised over the data, or most codes go unused.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmdcodec.nn.norms import unit_vectors

# Rows of zeros (padding) point nowhere; they get whatever code is first.
_SHORTEST = 1e-12


def targets(
  x: jax.Array, projection: jax.Array, codebook: jax.Array
) -> jax.Array:
  """Codes of the directions of projected rows.

  Args:
    x: float32 [..., inputs].
    projection: float32 [inputs, dim].
    codebook: float32 [codes, dim].

  Returns:
    int32 [...].
  """
  product = jnp.matmul(x, projection, precision=jax.lax.Precision.HIGHEST)
  # Of unit vectors, the nearest has the largest inner product.
  similar = jnp.matmul(
    unit_vectors(product, _SHORTEST),
    unit_vectors(codebook, _SHORTEST).T,
    precision=jax.lax.Precision.HIGHEST,
  )
  return jnp.argmax(similar, axis=-1).astype(jnp.int32)


class RandomProjection(nn.Module):
  """A frozen projection and codebook, in the collection "targets".

  Attributes:
    codes: number of codes.
    dim: dimensions to project to.
  """

  codes: int
  dim: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """float32 [..., inputs] -> int32 [...]; see `targets`."""

    def frozen(
      name: str, init: nn.initializers.Initializer, *shape: int
    ) -> jax.Array:
      make = lambda: init(self.make_rng("params"), shape, jnp.float32)
      return self.variable("targets", name, make).value

    projection = frozen(
      "projection", nn.initializers.xavier_normal(), x.shape[-1], self.dim
    )
    codebook = frozen(
      "codebook", nn.initializers.normal(1.0), self.codes, self.dim
    )
    return targets(x, projection, codebook)
