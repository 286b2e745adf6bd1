"""Rows of code vectors cut into blocks, for walks over pairs of blocks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Blocks(NamedTuple):
  """Rows cut into blocks of equal size.

  Attributes:
    z: float32 [blocks, codebooks, block, dim].
    square: [blocks, codebooks, block], |z|^2.
    source: int32 [blocks, sources, block], what each row was made of, -1 for
      rows that do not count. A pair counts if it has no source in common.
  """

  z: jax.Array
  square: jax.Array
  source: jax.Array


def cut(z: jax.Array, source: jax.Array, block: int) -> Blocks:
  """Rows [n, codebooks, dim] in blocks; the last one is filled up.

  Args:
    z: finite rows; for precise distances their mean should be near 0.
    source: int32 [sources, n].
    block: rows in a block.

  Returns:
    Blocks; what fills the last one up has no source, and does not count.
  """
  z = jnp.pad(z, ((0, -len(z) % block), (0, 0), (0, 0)))
  z = jnp.swapaxes(z.reshape(-1, block, *z.shape[1:]), 1, 2)
  return Blocks(z, jnp.sum(z * z, -1), split(source, block, -1))


def own_source(valid: jax.Array) -> jax.Array:
  """Each row is its own source: int32 [1, n]."""
  return jnp.where(valid, jnp.arange(len(valid)), -1)[None]


def split(x: jax.Array, block: int, fill: float = 0) -> jax.Array:
  """[..., n] -> [blocks, ..., block]."""
  pad = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)]
  x = jnp.pad(x, pad, constant_values=fill)
  return jnp.moveaxis(x.reshape(*x.shape[:-1], -1, block), -2, 0)


def joined(x: jax.Array, n: int) -> jax.Array:
  """[blocks, ..., block] -> [..., n]."""
  x = jnp.moveaxis(x, 0, -2)
  return x.reshape(*x.shape[:-2], -1)[..., :n]
