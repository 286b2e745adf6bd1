"""Position encodings of tokens.

Sinusoids are added to the input (Vaswani et al. 2017, arXiv 1706.03762, 3.5).
Rotary positions rotate queries and keys (Su et al. 2021, arXiv 2104.09864).
Relative positions add a learned bias per bucket of distances to the logits (T5,
Raffel et al. 2020, arXiv 1910.10683, 2.1). Relative keys add the product of the
query and a learned vector of the distance (Shaw et al. 2018, arXiv 1803.02155).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import platform

# "none": which tokens came first shows from what each attends to.
KINDS = ("sinusoidal", "rotary", "relative", "none")
# "none": the caller has added its own to the input.
ENCODER_KINDS = ("sinusoidal", "rotary", "none")


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
  """Sinusoidal position vectors as in MusicGen: cosines, then sines.

  Args:
    positions: int [...].
    width: channels of a vector; even, at least 4.

  Returns:
    float32 [..., width].
  """
  half = width // 2
  # Rates are float64 and rounded once: at position 1500 an error of a rate is
  # multiplied by 1500.
  rates = np.exp(-math.log(10_000) * np.arange(half) / (half - 1))
  angles = positions[..., None].astype(jnp.float32) * rates.astype(np.float32)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
  """Rotates pairs of channels by angles that grow with the position.

  The inner product of a rotated query and key depends only on their distance.
  Channel i is paired with channel i + head_dim / 2.

  Args:
    x: [batch, tokens, heads, head_dim].
    positions: int [batch or 1, tokens].

  Returns:
    Same shape and dtype as x.
  """
  half = x.shape[-1] // 2
  rates = 10_000.0 ** (-np.arange(half, dtype=np.float32) / half)
  angles = positions[..., None, None].astype(jnp.float32) * rates
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
  return rotated.astype(x.dtype)


def relative_buckets(
  distance: np.ndarray,
  *,
  buckets: int,
  max_distance: int,
  bidirectional: bool,
) -> np.ndarray:
  """Bucket of each distance from a query to a key (T5, 2.1).

  In each direction, the first half of the buckets holds one distance each.
  The width of the others grows logarithmically, and the last one holds all
  distances from `max_distance` on.

  Args:
    distance: position of the key minus position of the query.
    buckets: number of buckets in both directions together.
    max_distance: must be more than half of the buckets of a direction.
    bidirectional: keys after the query get half of the buckets; otherwise they
      share bucket 0 with the query itself.

  Returns:
    int32, same shape as `distance`.
  """
  side = buckets // 2 if bidirectional else buckets
  exact = side // 2
  away = np.abs(distance) if bidirectional else np.maximum(-distance, 0)
  # float32 and the public code's order of operations: otherwise the edge of a
  # bucket may be off by one position.
  far = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact))
  far = (
    far / np.float32(math.log(max_distance / exact)) * np.float32(side - exact)
  )
  far = exact + far.astype(np.int32)
  near = np.where(away < exact, away, np.minimum(far, side - 1))
  return (side * (bidirectional & (distance > 0)) + near).astype(np.int32)


def look_up(
  table: jax.Array, buckets: np.ndarray, distance: jax.Array
) -> jax.Array:
  """Looks up a value per head and distance.

  Args:
    table: [buckets, heads].
    buckets: int [longest + 1], the bucket of each distance, in rising order.
    distance: int [batch, queries, keys]; those below 0 and above the longest
      count as these.

  Returns:
    [batch, heads, queries, keys].
  """
  if platform.traced_for() != "tpu":
    longest = len(buckets) - 1
    found = table[jnp.asarray(buckets)[jnp.clip(distance, 0, longest)]]
    return jnp.moveaxis(found, -1, 1)
  # A TPU pads the heads of a gather's result to 128, which takes 28 GiB for 16
  # pieces of 1800 tokens and 16 heads. Comparisons take 8; a CPU is faster with
  # the gather.
  row = lambda bucket: table[bucket][None, :, None, None]
  x, distance = row(int(buckets[0])), distance[:, None]
  for bucket in np.unique(buckets[buckets > buckets[0]]):
    x = jnp.where(distance >= np.argmax(buckets == bucket), row(bucket), x)
  shape = (len(distance), table.shape[1], *distance.shape[2:])
  return jnp.broadcast_to(x, shape)


def relative_logits(x: jax.Array, left: int, right: int) -> jax.Array:
  """Aligns values per distance with the keys of each query, without a gather.

  Rows are padded and read again with one value less per row, which shifts each
  by one more than the last (Huang et al. 2018, arXiv 1809.04281, 3.4). Only the
  distances that differ are shifted; keys beyond them are filled in.

  Args:
    x: [..., queries, left + right + 1], a value per query and distance, from
      -`left` (the key comes first) to `right`.
    left: all keys further before a query share its first value.
    right: all keys further after a query share its last value.

  Returns:
    [..., queries, keys] with as many keys as queries; the value of key j is
    that of the distance j - i to query i.
  """
  *batch, count, size = x.shape
  rows = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, count + 1)])
  rows = rows.reshape(*batch, -1)[..., : count * (size + count)]
  rows = rows.reshape(*batch, count, -1)[..., left : left + count]
  distance = np.arange(count) - np.arange(count)[:, None]
  rows = jnp.where(distance < -left, x[..., :1], rows)
  return jnp.where(distance > right, x[..., -1:], rows)
