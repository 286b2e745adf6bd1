"""K-means against scikit-learn and NumPy, and codebooks fitted by it."""

import jax
import numpy as np
import pytest
from sklearn import cluster

from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.quantize import fit_residual, kmeans, residual

KEY = jax.random.key(0)


def mixture(rows=3000, dim=6, apart=1.5):
  """Forty clouds of rows, far from 0."""
  rng = np.random.default_rng(0)
  places = rng.normal(size=(40, dim)) * apart + 7
  x = places[rng.integers(40, size=rows)] + rng.normal(size=(rows, dim))
  return x.astype(np.float32)


def distances(rows, centres):
  """float64 squared distances [rows, centres]."""
  rows, centres = rows.astype(np.float64), centres.astype(np.float64)
  return np.stack([((rows - c) ** 2).sum(1) for c in centres], 1)


def test_inertia_is_scikit_learns():
  """Catches a poor start, or too few iterations.

  From random rows instead of k-means++, it is 20 % worse here.
  """
  rows = mixture(apart=4.0)
  fits = [kmeans.fit(jax.random.key(i), rows, 40) for i in range(3)]
  for found in fits:
    apart = distances(rows, found.centres)
    np.testing.assert_allclose(found.inertia, apart.min(1).sum(), rtol=1e-5)
    counts = np.bincount(apart.argmin(1), minlength=40)
    assert np.abs(counts - found.counts).sum() <= 4 and counts.min() > 0
  peer = cluster.KMeans(40, random_state=0).fit(rows)
  inertia = np.mean([found.inertia for found in fits])
  assert inertia < 1.02 * peer.inertia_


def test_one_step_is_lloyds():
  """Catches a wrong mean, padding that counts, and blocks left out."""
  rows = mixture(101, 3) - 7
  start = rows[:9]
  want = distances(rows, start)
  near = want.argmin(1)
  means = [rows[near == c].mean(0, dtype=np.float64) for c in range(9)]
  blocks = kmeans.Blocks(
    np.pad(rows, ((0, 4), (0, 0))).reshape(5, 21, 3),
    np.pad(np.ones(101, np.float32), (0, 4)).reshape(5, 21),
    101,
  )
  new, counts, errors, inertia, _ = kmeans._lloyd(*blocks[:2], start)
  np.testing.assert_allclose(new, means, atol=1e-5)
  np.testing.assert_array_equal(counts, np.bincount(near, minlength=9))
  np.testing.assert_allclose(inertia, want.min(1).sum(), rtol=1e-5)
  flat = np.reshape(errors, -1)
  np.testing.assert_allclose(flat[:101], want.min(1), rtol=1e-4, atol=1e-5)
  assert not flat[101:].any()


@pytest.mark.usefixtures("all_devices")
def test_devices_and_keys():
  """Catches a part of the rows that other devices do not see."""
  rows = mixture(1001, 4)
  one = kmeans.fit(KEY, rows, 16, iterations=8)
  many = kmeans.fit(KEY, rows, 16, iterations=8, mesh=mesh_lib.make_mesh())
  np.testing.assert_allclose(many.centres, one.centres, atol=1e-4)
  np.testing.assert_allclose(many.inertia, one.inertia, rtol=1e-5)
  again = kmeans.fit(KEY, rows, 16, iterations=8)
  np.testing.assert_array_equal(again.centres, one.centres)
  other = kmeans.fit(jax.random.key(1), rows, 16, iterations=8)
  assert np.abs(other.centres - one.centres).max() > 1e-2


def test_rows_that_repeat():
  """Catches NaN centres, and centres that stay empty beside other rows."""
  rows = np.zeros((500, 3), np.float32)
  rows[:59] = np.random.default_rng(0).normal(size=(59, 3))
  rows[:, 1] = 4.0  # a constant dimension
  for different in (60, 41, 1):
    rows[different - 1 :] = rows[-1]
    found = kmeans.fit(KEY, rows, 60)
    assert np.isfinite(found.centres).all() and found.inertia < 1e-6
    assert (found.counts > 0).sum() == different and found.counts.sum() == 500


def test_empty_centres_move():
  """Catches a centre without rows that stays where it is."""
  rows = mixture(400, 3) - 7
  blocks = kmeans.place(rows)
  start = np.concatenate([rows[:7], np.full((1, 3), 1e3, np.float32)])
  _, counts, errors, *_ = kmeans._lloyd(*blocks[:2], start)
  assert np.asarray(counts)[7] == 0
  moved = np.asarray(kmeans._reseed(KEY, blocks.rows, errors, start, counts))
  np.testing.assert_array_equal(moved[:7], start[:7])
  assert (np.abs(rows - moved[7]).max(1) == 0).any()


def test_what_cannot_be_clustered():
  """Catches NaN codebooks."""
  with pytest.raises(UserError, match="3 rows for 4 centres"):
    kmeans.fit(KEY, np.zeros((3, 2)), 4)
  with pytest.raises(UserError, match="1 of 5 rows are not finite"):
    kmeans.fit(KEY, np.diag([1, 2, np.inf, 3, 4]), 2)
  with pytest.raises(UserError, match="at least 1"):
    kmeans.fit(KEY, np.zeros((3, 2)), 0)


def test_levels_code_what_is_left():
  """Catches a level fitted to the rows instead of to the residual."""
  rows = mixture(2000, 4)
  found = fit_residual.fit(KEY, rows, 3, 16, iterations=20)
  codes, vectors = residual.encode(rows, found.embed)
  left = rows - np.cumsum(vectors, 0)
  np.testing.assert_allclose((left**2).sum((1, 2)), found.inertia, rtol=1e-3)
  assert (found.inertia[1:] < 0.6 * found.inertia[:-1]).all()
  assert found.inertia[0] < 0.6 * found.total
  for level, counts in zip(codes, found.counts, strict=True):
    used = np.bincount(level, minlength=16)
    assert np.abs(used - counts).sum() <= 8
