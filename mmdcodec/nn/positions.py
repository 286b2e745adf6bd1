"""How attention knows where a token stands: three ways of saying it.

Sinusoids are added to the input (Vaswani et al. 2017, arXiv 1706.03762, 3.5),
rotary positions turn queries and keys (Su et al. 2021, arXiv 2104.09864), and
relative ones add a learned bias per bucket of distances to the logits (T5,
Raffel et al. 2020, arXiv 1910.10683, 2.1).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("sinusoidal", "rotary", "relative")


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
  """Vectors of positions, as MusicGen adds them: cosines, then sines.

  Args:
    positions: int [...].
    width: of a vector; even, at least 4.

  Returns:
    float32 [..., width].
  """
  half = width // 2
  # In float64 and rounded once: at position 1500 the angle of the first pair
  # is as large, and its error is that of the rate times 1500.
  rates = np.exp(-math.log(10_000) * np.arange(half) / (half - 1))
  angles = positions[..., None].astype(jnp.float32) * rates.astype(np.float32)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
  """Turns pairs of channels by angles that grow with the position.

  The inner product of a turned query and a turned key depends on the distance
  of the two alone. Channel i is paired with channel i + head_dim / 2.

  Args:
    x: [batch, tokens, heads, head_dim].
    positions: int [batch or 1, tokens].

  Returns:
    As x.
  """
  half = x.shape[-1] // 2
  rates = 10_000.0 ** (-np.arange(half, dtype=np.float32) / half)
  angles = positions[..., None, None].astype(jnp.float32) * rates
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
  return turned.astype(x.dtype)


def relative_buckets(
  distance: np.ndarray, *, buckets: int, longest: int, both_ways: bool
) -> np.ndarray:
  """Bucket of each distance from a query to a key (T5, 2.1).

  The first half of the buckets of a direction has a distance each, the others
  grow as its logarithm, and the last one holds all from `longest` on at the
  latest.

  Args:
    distance: position of the key minus that of the query.
    buckets: in all.
    longest: distance, above half of the buckets of a direction.
    both_ways: half of the buckets are for keys after the query; else those
      share bucket 0 with the query itself.

  Returns:
    int32, as `distance`.
  """
  side = buckets // 2 if both_ways else buckets
  exact = side // 2
  away = np.abs(distance) if both_ways else np.maximum(-distance, 0)
  # In float32 and this order, as in the public code: a bucket's edge may be off
  # by a position otherwise.
  far = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact))
  far = far / np.float32(math.log(longest / exact)) * np.float32(side - exact)
  far = exact + far.astype(np.int32)
  near = np.where(away < exact, away, np.minimum(far, side - 1))
  return (side * (both_ways & (distance > 0)) + near).astype(np.int32)
