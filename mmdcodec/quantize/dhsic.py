"""dHSIC: the mean squared MMD over all permutations, in closed form.

For a product kernel k = prod_k k_k (Pfister et al. 2018, arXiv 1603.00285,
definition 2.6):

  mean_ij prod_k K^k_ij + prod_k mean_ij K^k_ij - 2 mean_i prod_k mean_j K^k_ij
"""

import functools

import chex
import jax
import jax.numpy as jnp

from mmdcodec.parallel import mapped
from mmdcodec.parallel.mapped import AxisName
from mmdcodec.quantize import derivatives, pairs, rows
from mmdcodec.quantize.kernels import GaussianKernel, Kernel


def dhsic(
  streams: jax.Array,
  kernel: Kernel = GaussianKernel(),
  *,
  valid: jax.Array | None = None,
  unbiased: bool = True,
  block_size: int | None = None,
  axis_name: AxisName = None,
) -> jax.Array:
  """The mean MMD^2 over all permutations, dHSIC (Pfister et al. 2018).

  Args:
    streams: [n, codebooks, d], the rows.
    kernel: k_s of each codebook's vectors; their product over the codebooks,
      summed over the scales s, is the kernel of a row.
    valid: bool [n], rows that count; None means all.
    unbiased: leave out the pairs of a row with itself.
    block_size: rows in a block of the computation; None chooses.
    axis_name: mapped axes that divide the rows, see `independence_loss`.

  Returns:
    Scalar float32, differentiable with respect to the streams.

  Raises:
    ValueError: the shapes do not fit, or there are too few rows.
    UserError: a call inside `jax.shard_map` or `jax.pmap` without axis_name,
      or with one that cannot be.
  """
  chex.assert_rank(
    streams,
    3,
    custom_message="streams must be [n, codebooks, d]",
    exception_type=ValueError,
  )
  valid = jnp.ones((len(streams),), bool) if valid is None else valid
  chex.assert_shape(
    valid,
    (len(streams),),
    custom_message="valid must have one value per row",
    exception_type=ValueError,
  )
  mapped.check_global("dHSIC", axis_name, takes_name=True, rows=[streams])
  streams, valid = (mapped.gather(x, axis_name) for x in (streams, valid))
  rows.check_rows(len(streams), block_size, unbiased=unbiased)
  value = dhsic_of_rows(streams, valid, kernel, unbiased, block_size, axis_name)
  return mapped.mean(value, axis_name)


def dhsic_of_rows(
  z: jax.Array,
  valid: jax.Array,
  kernel: Kernel,
  unbiased: bool,
  block: int | None,
  axis_name: AxisName = None,
) -> jax.Array:
  """The same of rows that have been checked and that all devices hold."""
  if block is None:
    block = pairs.block_for(z.shape[0], z.shape[1], axis_name)
  z = rows.replicated(z)
  z = jnp.where(valid[:, None, None], z, 0.0)
  if kernel.relative:
    z = z / rows.median_distances(z, valid)[:, None]
  (z,) = rows.centred(kernel, z)
  own = rows.diagonal(kernel, jnp.swapaxes(z, 0, 1))  # [scales, codebooks, n]
  return _dhsic(z, own, valid, kernel, unbiased, block, axis_name)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5, 6))
def _dhsic(
  z: jax.Array,
  own: jax.Array,
  valid: jax.Array,
  kernel: Kernel,
  unbiased: bool,
  block: int,
  axis_name: AxisName,
) -> jax.Array:
  joint, single = pairs.product_sums(z, valid, kernel, block, axis_name)
  return _closed_form(joint, single, own, valid, unbiased)


@_dhsic.defjvp
def _dhsic_jvp(
  kernel: Kernel,
  unbiased: bool,
  block: int,
  axis_name: AxisName,
  primals: tuple[jax.Array, ...],
  tangents: tuple[jax.Array, ...],
) -> tuple[jax.Array, jax.Array]:
  z, own, valid = primals
  # The loss is linear in the joint sums, so its gradient does not need them and
  # they can come from the sweep that computes the gradient.
  single = pairs.single_sums(z, valid, kernel, block, axis_name)
  of_sums = lambda joint, single, own: _closed_form(
    joint, single, own, valid, unbiased
  )
  _, pull = jax.vjp(of_sums, jnp.zeros_like(single[0, 0]), single, own)
  *weights, of_own = pull(mapped.varying_like(jnp.float32(1.0), z))
  joint, gradient = pairs.product_gradient(
    z, valid, weights, kernel, block, axis_name
  )
  gradient = derivatives.forward_only(gradient)
  change = jnp.sum(gradient * tangents[0]) + jnp.sum(of_own * tangents[1])
  return of_sums(joint, single, own), change


def _closed_form(
  joint: jax.Array,
  single: jax.Array,
  own: jax.Array,
  valid: jax.Array,
  unbiased: bool,
) -> jax.Array:
  """Computes dHSIC from the sums over all pairs, `pairs.product_sums`.

  `own`, shaped like `single`, is the kernel of each row with itself.
  """
  if not unbiased:
    joint, single = joint + own.prod(1).sum(0), single + own
  count = jnp.maximum(valid.sum(), 1).astype(jnp.float32)
  others = jnp.maximum(count - 1, 1) if unbiased else count
  mean = lambda v: jnp.sum(jnp.where(valid, v, 0.0), -1) / count
  single = single / others
  means = mean(single)[..., None]  # [scales, codebooks, 1]
  # Differences row by row, so that rounding errors average out. The terms of
  # first order in single - means have mean 0 up to the rounding of the means.
  products = single.prod(1)
  product = means.prod(1)
  first = sum(
    (single[:, k] - means[:, k])
    * jnp.delete(means, k, axis=1, assume_unique_indices=True).prod(1)
    for k in range(single.shape[1])
  )
  return mean(joint / others - products.sum(0)) - mean(
    (products - product - first).sum(0)
  )
