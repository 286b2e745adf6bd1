"""K-means: centres that are near to many rows.

Greedy k-means++ on a sample of the rows chooses the first centres (Arthur and
Vassilvitskii 2007; the best of several candidates, as their section 5
proposes). Then Lloyd's algorithm on all rows moves each centre to the mean of
the rows that are nearest to it. A centre that is nearest to no row moves to a
row that is far from its own centre.

Rows are visited in blocks, so that memory holds the rows and the distances of
one block. Under a mesh each device has a part of every block, and sums are
global. For k-means inside of a training step, see `vector.kmeans`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmdcodec.errors import UserError
from mmdcodec.quantize import vector

ITERATIONS = 100
# Lloyd's algorithm stops when the squared steps of all centres add up to this
# share of the rows' variance per dimension, as in scikit-learn.
TOLERANCE = 1e-4
# Below this share of the rows' variance, errors are rounding: there are no more
# different rows than centres.
_ROUNDING = 1e-10
# Rows in a block, and in the sample for k-means++: per centre, and at least.
_BLOCK, _SAMPLE, _LEAST_SAMPLE = 8192, 16, 16384


# Sums [centres, dim], counts [centres] and inertia.
_Totals = tuple[jax.Array, jax.Array, jax.Array]


class KMeans(NamedTuple):
  """Centres, and how well they fit.

  Attributes:
    centres: float32 [centres, dim].
    counts: int64 [centres], rows nearest to each; 0 for an empty centre.
    inertia: sum of the squared distances of rows to their centres.
    iterations: number of iterations of Lloyd's algorithm.
    reseeded: how many times an empty centre was moved to a row.
  """

  centres: np.ndarray
  counts: np.ndarray
  inertia: float
  iterations: int
  reseeded: int


class Blocks(NamedTuple):
  """Rows on the devices.

  Attributes:
    rows: float32 [blocks, block, dim]; the last ones are padding.
    weight: float32 [blocks, block], 1 for a row and 0 for padding.
    number: number of rows.
  """

  rows: jax.Array
  weight: jax.Array
  number: int


def fit(
  key: jax.Array,
  rows: Any,
  centres: int,
  *,
  iterations: int = ITERATIONS,
  tolerance: float = TOLERANCE,
  mesh: Mesh | None = None,
) -> KMeans:
  """Fits centres to rows.

  Args:
    key: random key; the same one gives the same centres.
    rows: float [rows, dim].
    centres: number of centres.
    iterations: most iterations of Lloyd's algorithm.
    tolerance: see `TOLERANCE`.
    mesh: devices that share the work; None: the default device.

  Raises:
    UserError: there are fewer rows than centres, or a row is not finite.
  """
  rows = check(rows, centres)
  # Distances are most precise where the mean is 0.
  mean = rows.mean(0, dtype=np.float64).astype(np.float32)
  found = fit_blocks(
    key, place(rows - mean, mesh), centres, iterations, tolerance
  )
  return found._replace(centres=found.centres + mean)


def check(rows: Any, centres: int) -> np.ndarray:
  """Returns rows as float32; raises UserError as `fit` does."""
  rows = np.asarray(rows, np.float32)
  if centres < 1:
    raise UserError(f"the number of centres is {centres}; expected at least 1.")
  if len(rows) < centres:
    raise UserError(
      f"there are {len(rows)} rows for {centres} centres; give more audio or"
      " ask for fewer codes."
    )
  if bad := len(rows) - int(np.isfinite(rows).all(1).sum()):
    raise UserError(
      f"{bad} of {len(rows)} rows are not finite; k-means needs finite rows, so"
      " use weights from an earlier step of the training."
    )
  return rows


def place(rows: np.ndarray, mesh: Mesh | None = None) -> Blocks:
  """Cuts rows [rows, dim] into blocks on the devices."""
  count, dim = rows.shape
  devices = mesh.size if mesh else 1
  block = min(_BLOCK, count)
  block = -(-block // devices) * devices
  blocks = -(-count // block)
  padded = np.zeros((blocks * block, dim), np.float32)
  padded[:count] = rows
  rows = padded.reshape(blocks, block, dim)
  weight = (np.arange(blocks * block) < count).astype(np.float32)
  weight = weight.reshape(blocks, block)
  if mesh is None:
    return Blocks(jax.device_put(rows), jax.device_put(weight), count)
  share = NamedSharding(mesh, PartitionSpec(None, mesh.axis_names))
  return Blocks(
    jax.device_put(rows, share), jax.device_put(weight, share), count
  )


def fit_blocks(
  key: jax.Array,
  blocks: Blocks,
  centres: int,
  iterations: int = ITERATIONS,
  tolerance: float = TOLERANCE,
) -> KMeans:
  """Fits centres to rows on the devices, whose mean is near 0; see `fit`."""
  start_key, sample_key, loop_key = jax.random.split(key, 3)
  sample = min(max(_SAMPLE * centres, _LEAST_SAMPLE), blocks.number)
  draws = np.random.default_rng(np.asarray(jax.random.key_data(sample_key)))
  chosen = draws.choice(blocks.number, sample, replace=False)
  trials = 2 + int(math.log(centres))
  embed = _start(start_key, blocks.rows, chosen, centres, trials)
  variance = float(_total(blocks.rows)) / blocks.number
  small = tolerance * variance / blocks.rows.shape[-1]
  rounding = _ROUNDING * variance * blocks.number
  reseeded = step = 0
  for step in range(1, iterations + 1):
    before = embed
    embed, counts, errors, inertia, moved = _lloyd(*blocks[:2], before)
    empty = int((np.asarray(counts) == 0).sum())
    if empty and float(inertia) > rounding:
      step_key = jax.random.fold_in(loop_key, step)
      embed = _reseed(step_key, blocks.rows, errors, embed, counts)
      reseeded += empty
    elif float(moved) <= small:
      break
  _, counts, _, inertia, _ = _lloyd(*blocks[:2], embed)
  return KMeans(
    np.asarray(embed),
    np.asarray(counts).astype(np.int64),
    float(inertia),
    step,
    reseeded,
  )


@jax.jit
def subtract(blocks: jax.Array, weight: jax.Array, embed: jax.Array) -> Any:
  """What is left of rows [blocks, block, dim] beyond their nearest centres."""

  def one(rows: jax.Array, weight: jax.Array) -> jax.Array:
    near = vector.lookup(embed, vector.nearest(rows, embed))
    return (rows - near) * weight[:, None]

  return lax.map(lambda inputs: one(*inputs), (blocks, weight))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _start(
  key: jax.Array,
  blocks: jax.Array,
  chosen: jax.Array,
  centres: int,
  trials: int,
) -> jax.Array:
  """First centres [centres, dim] by greedy k-means++.

  Args:
    key: random key.
    blocks: [blocks, block, dim].
    chosen: int [sample], the rows to choose from.
    centres: number of centres.
    trials: candidates for each of them.
  """
  rows = blocks.reshape(-1, blocks.shape[-1])[chosen]
  norms = jnp.sum(rows**2, -1, keepdims=True)

  def distances(to: jax.Array) -> jax.Array:
    products = jnp.matmul(rows, to.T, precision=vector.HIGHEST)
    return jnp.maximum(norms - 2 * products + jnp.sum(to**2, -1), 0)

  def add(
    i: jax.Array, state: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    embed, least = state
    sums = jnp.cumsum(least)
    where = jax.random.uniform(
      jax.random.fold_in(key, i), (trials,), jnp.float32
    )
    # A row at distance 0 adds nothing, so it is not chosen.
    index = jnp.sum(sums[:, None] <= where * sums[-1], 0)
    some = rows[jnp.minimum(index, len(rows) - 1)]
    left = jnp.minimum(least[:, None], distances(some))
    best = left.sum(0).argmin()
    return embed.at[i].set(some[best]), left[:, best]

  first = jax.random.randint(
    jax.random.fold_in(key, 0), (), 0, len(rows), jnp.int32
  )
  embed = (
    jnp.zeros((centres, rows.shape[1]), jnp.float32).at[0].set(rows[first])
  )
  state = embed, distances(rows[first][None])[:, 0]
  return lax.fori_loop(1, centres, add, state)[0]


@jax.jit
def _lloyd(
  blocks: jax.Array, weight: jax.Array, embed: jax.Array
) -> tuple[jax.Array, ...]:
  """One iteration.

  Returns:
    (new centres; an empty one stays, and of the old ones: counts [centres],
    squared errors [blocks, block], their sum, the sum of squared steps).
  """
  size = len(embed)

  def one(
    total: _Totals, inputs: tuple[jax.Array, jax.Array]
  ) -> tuple[_Totals, jax.Array]:
    rows, weight = inputs
    codes = vector.nearest(rows, embed)
    sums, counts = vector.statistics(rows, codes, weight, size)
    errors = jnp.sum((rows - vector.lookup(embed, codes)) ** 2, -1) * weight
    added = (sums, counts, errors.sum())
    return jax.tree.map(jnp.add, total, added), errors

  zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
  zero = (jnp.zeros_like(embed), zeros(size), zeros())
  total, errors = lax.scan(one, zero, (blocks, weight))
  sums, counts, inertia = total
  empty = (counts == 0)[:, None]
  new = jnp.where(empty, embed, sums / jnp.maximum(counts, 1)[:, None])
  return new, counts, errors, inertia, jnp.sum((new - embed) ** 2)


@jax.jit
def _reseed(
  key: jax.Array,
  blocks: jax.Array,
  errors: jax.Array,
  embed: jax.Array,
  counts: jax.Array,
) -> jax.Array:
  """Moves empty centres to rows, chosen in proportion to squared errors."""
  rows = blocks.reshape(-1, blocks.shape[-1])
  chosen = vector.choose_rows(key, rows, errors.reshape(-1), len(embed))
  new, given = vector.spread(counts == 0, *chosen)
  return jnp.where(given[:, None], new, embed)


@jax.jit
def _total(blocks: jax.Array) -> jax.Array:
  """The sum of all squares."""
  return jnp.sum(blocks**2)
