"""Fits the codebooks of a residual quantizer by k-means, level by level.

Each level gets the centres of what the levels before it leave (see
`mmdcodec.quantize.residual`, which codes and decodes). MusicLM (arXiv
2301.11325, section 4) fits 12 levels of 1024 so to embeddings of music.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mmdcodec.quantize import kmeans


class Codebooks(NamedTuple):
  """The codebooks of all levels, and how well they fit.

  Attributes:
    embed: float32 [levels, size, dim], for `mmdcodec.quantize.residual`.
    counts: int64 [levels, size], rows of each code; 0 for an empty centre.
    inertia: float64 [levels], what is left of the rows after each level, as a
      sum of squares.
    total: the rows' sum of squares around their mean.
    reseeded: int64 [levels], how many times an empty centre was moved.
  """

  embed: np.ndarray
  counts: np.ndarray
  inertia: np.ndarray
  total: float
  reseeded: np.ndarray


def fit(
  key: jax.Array,
  rows: Any,
  levels: int,
  size: int,
  *,
  iterations: int = kmeans.ITERATIONS,
  mesh: Mesh | None = None,
  show: Callable[[int, int], None] = lambda done, total: None,
) -> Codebooks:
  """Fits codebooks to rows.

  Args:
    key: random key; the same one gives the same codebooks.
    rows: float [rows, dim].
    levels: number of codebooks.
    size: codes in each.
    iterations: most iterations of each k-means.
    mesh: devices that share the work; None: the default device.
    show: called with (levels done, total) before each level and at the end.

  Raises:
    UserError: there are fewer rows than codes, or a row is not finite.
  """
  rows = kmeans.check(rows, size)
  # Distances are most precise where the mean is 0.
  mean = rows.mean(0, dtype=np.float64).astype(np.float32)
  rows = rows - mean
  total = float(np.sum(np.square(rows, dtype=np.float64)))
  blocks = kmeans.place(rows, mesh)
  found = []
  for i, level_key in enumerate(jax.random.split(key, levels)):
    show(i, levels)
    level = kmeans.fit_blocks(level_key, blocks, size, iterations)
    left = kmeans.subtract(blocks.rows, blocks.weight, level.centres)
    blocks = blocks._replace(rows=left)
    found.append(level)
  show(levels, levels)
  embed = np.stack([level.centres for level in found])
  # The first level takes the mean.
  embed[0] += mean
  return Codebooks(
    embed,
    np.stack([level.counts for level in found]),
    np.array([level.inertia for level in found]),
    total,
    np.array([level.reseeded for level in found]),
  )
