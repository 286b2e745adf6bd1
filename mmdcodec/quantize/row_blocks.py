"""Rows of code vectors, cut into blocks for sweeps over pairs of blocks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Blocks(NamedTuple):
  """Rows cut into blocks of equal size.

  Attributes:
    z: float32 [blocks, codebooks, block, dim].
    square: [blocks, codebooks, block], |z|^2.
    source: int32 [blocks, sources, block], the rows that each row was made of,
      -1 for rows that do not count. Two rows with a common source are not a
      pair.
  """

  z: jax.Array
  square: jax.Array
  source: jax.Array


def cut(z: jax.Array, source: jax.Array, block: int) -> Blocks:
  """Cuts rows [n, codebooks, dim] into blocks; pads the last one.

  Args:
    z: finite rows. Distances are most precise if their mean is near 0.
    source: int32 [sources, n].
    block: rows in a block.

  Returns:
    Blocks. Padding has no source, so it does not count.
  """
  z = jnp.pad(z, ((0, -len(z) % block), (0, 0), (0, 0)))
  z = jnp.swapaxes(z.reshape(-1, block, *z.shape[1:]), 1, 2)
  return Blocks(z, jnp.sum(z * z, -1), split(source, block, -1))


def own_source(valid: jax.Array) -> jax.Array:
  """Makes each row its own source: int32 [1, n]."""
  return jnp.where(valid, jnp.arange(len(valid)), -1)[None]


def split(x: jax.Array, block: int, fill: float = 0) -> jax.Array:
  """Cuts the last axis: [..., n] -> [blocks, ..., block]."""
  pad = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)]
  x = jnp.pad(x, pad, constant_values=fill)
  return jnp.moveaxis(x.reshape(*x.shape[:-1], -1, block), -2, 0)


def joined(x: jax.Array, n: int) -> jax.Array:
  """The inverse of `split`: [blocks, ..., block] -> [..., n]."""
  x = jnp.moveaxis(x, 0, -2)
  return x.reshape(*x.shape[:-2], -1)[..., :n]
