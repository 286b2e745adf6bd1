"""The independence losses once more: float64 NumPy, gradients by hand.

Written from the definitions, pair by pair and without any of the library's
tricks; it shares nothing with it but the parameters of the kernels. Rows are
walked over in strips, so that thousands of them fit into memory.
"""

import jax
import numpy as np

from mmdcodec.quantize.independence import (
  GaussianKernel,
  InverseMultiquadricKernel,
  LaplacianKernel,
  LinearKernel,
  QuadraticKernel,
)

STRIP = 256


def terms(kernel, u):
  """k_s(u) and dk_s/du, [scales, *u.shape] both."""
  if isinstance(kernel, LinearKernel):
    return u[None], np.ones_like(u)[None]
  if isinstance(kernel, QuadraticKernel):
    return (u[None] + kernel.offset) ** 2, 2 * (u[None] + kernel.offset)
  r = np.asarray(kernel.radii).reshape(-1, *[1] * u.ndim)
  if isinstance(kernel, GaussianKernel):
    value = np.exp(-u / (2 * r**2))
    return value, -value / (2 * r**2)
  if isinstance(kernel, LaplacianKernel):
    distance = np.sqrt(u)
    value = np.exp(-distance / r)
    apart = np.where(u > 0, distance, np.inf)
    return value, -value / (2 * r * apart)
  assert isinstance(kernel, InverseMultiquadricKernel)
  value = (1 + u / r**2) ** -0.5
  return value, -0.5 * value**3 / r**2


def of_pairs(kernel, x, y):
  """What the kernel takes, of every x with every y."""
  if kernel.of == "product":
    return x @ y.T / x.shape[1]
  size = (x * x).sum(1)[:, None] + (y * y).sum(1)
  u = size - 2 * x @ y.T
  return np.where(u < 1e-11 * size, 0.0, u)


def pull(kernel, w, x, y):
  """sum_j w_ij du_ij/dx_i."""
  if kernel.of == "product":
    return w @ y / x.shape[1]
  return 2 * (w.sum(1)[:, None] * x - w @ y)


def median(z):
  """Of the distances of rows [n, K, d] to the row half of all away, [K]."""
  n = len(z)
  picked = np.arange(min(n, 1024)) * n // min(n, 1024)
  apart = np.linalg.norm(z[picked] - z[(picked + n // 2) % n], axis=-1)
  found = [column[column > 1e-6 * max(column.max(), 1)] for column in apart.T]
  return np.array([np.median(f) if len(f) else 1.0 for f in found])


def weighted(kernel, x, y, weight):
  """sum_ij w_ij k(x_i, y_j): value, gradients, sum_ij |w_ij k_ij|.

  Args:
    kernel: k.
    x: [n, d].
    y: [m, d].
    weight: numbers of rows [strip] -> w [strip, m].
  """
  value, size = 0.0, 0.0
  for_x, for_y = np.zeros_like(x), np.zeros_like(y)
  for start in range(0, len(x), STRIP):
    at = np.arange(start, min(start + STRIP, len(x)))
    values, slopes = (
      t.sum(0) for t in terms(kernel, of_pairs(kernel, x[at], y))
    )
    w = weight(at)
    value += (w * values).sum()
    size += np.abs(w * values).sum()
    for_x[at] += pull(kernel, w * slopes, x[at], y)
    for_y += pull(kernel, (w * slopes).T, y, x[at])
  return value, for_x, for_y, size


def mmd2(x, y, kernel, unbiased=True):
  """Value, (gradient in x, in y), size of the terms."""
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  radius = 1.0
  if kernel.relative:
    radius = median(np.concatenate([x, y])[:, None])[0]
  x, y = x / radius, y / radius

  def within(n):
    def weight(at):
      w = np.ones((len(at), n))
      if unbiased:
        w[np.arange(len(at)), at] = 0
      return w / (n * (n - 1) if unbiased else n * n)

    return weight

  n, m = len(x), len(y)
  xx, a, b, size = weighted(kernel, x, x, within(n))
  yy, c, d, more = weighted(kernel, y, y, within(m))
  across = lambda at: np.full((len(at), m), -2 / (n * m))
  xy, e, f, most = weighted(kernel, x, y, across)
  gradients = (a + b + e) / radius, (c + d + f) / radius
  return xx + yy + xy, gradients, size + more + most


def permuted(z, order, kernel):
  """The MMD of rows [n, K, d] and rows z[order[k], k]; see `mmd2`."""
  n, books, dim = z.shape
  if n < 2:
    return 0.0, np.zeros_like(z), 0.0
  radius = median(z)[:, None] if kernel.relative else 1.0
  x = (z / radius).reshape(n, -1)
  y = np.stack([(z / radius)[order[k], k] for k in range(books)], 1)
  y = y.reshape(n, -1)

  def within(at):
    return (np.arange(n) != at[:, None]) / (n * (n - 1))

  def strangers(at):
    return np.all(order[:, None] != at[:, None], 0)

  count = strangers(np.arange(n)).sum()
  if not count:
    return 0.0, np.zeros_like(z), 0.0
  xx, a, b, size = weighted(kernel, x, x, within)
  yy, c, d, more = weighted(kernel, y, y, within)
  across = lambda at: -2.0 * strangers(at) / count
  xy, e, f, most = weighted(kernel, x, y, across)
  gradient = (a + b + e).reshape(z.shape)
  for_y = (c + d + f).reshape(z.shape)
  for k in range(books):
    gradient[order[k], k] += for_y[:, k]
  return xx + yy + xy, gradient / radius, size + more + most


def dhsic(z, kernel, unbiased=True):
  """Value, gradient, size of the terms, of rows [n, K, d]."""
  z = np.asarray(z, np.float64)
  n, books, _ = z.shape
  radius = median(z)[:, None] if kernel.relative else 1.0
  z = z / radius
  others = n - 1 if unbiased else n

  def strips():
    for start in range(0, n, STRIP):
      at = np.arange(start, min(start + STRIP, n))
      both = [
        terms(kernel, of_pairs(kernel, z[at, k], z[:, k])) for k in range(books)
      ]
      values, slopes = (np.stack(t) for t in zip(*both, strict=True))
      if unbiased:
        values[..., np.arange(len(at)), at] = 0
        slopes[..., np.arange(len(at)), at] = 0
      yield at, values, slopes  # [K, scales, strip, n]

  joint, size, rows = 0.0, 0.0, []
  for _, values, _ in strips():
    joint += values.prod(0).sum() / (n * others)
    size += np.abs(values.prod(0)).sum() / (n * others)
    rows.append(values.sum(-1) / others)
  rows = np.concatenate(rows, -1)  # [K, scales, n], mean_j K_ij
  means = rows.mean(-1)
  value = joint + means.prod(0).sum() - 2 * rows.prod(0).mean(-1).sum()
  size += np.abs(means.prod(0)).sum() + 2 * np.abs(rows.prod(0)).mean(-1).sum()

  gradient = np.zeros_like(z)
  but = lambda v, k: np.delete(v, k, 0).prod(0)
  for at, values, slopes in strips():
    for k in range(books):
      # Of K_ij and of K_ji together.
      each = 2 * but(values, k) + 2 * but(means, k)[:, None, None]
      each -= 2 * but(rows, k)[:, at, None] + 2 * but(rows, k)[:, None]
      w = (each * slopes[k]).sum(0) / (n * others)
      gradient[at, k] = pull(kernel, w, z[at, k], z[:, k])
  return value, gradient / radius, size


def standardized(z):
  """Rows with mean 0 and variance 1, and the way back for gradients."""
  z = np.asarray(z, np.float64)
  n = len(z)
  if n < 2:
    return np.zeros_like(z), np.zeros_like
  centred = z - z.mean(0)
  scale = 1 / np.sqrt((centred**2).sum(0) / (n - 1) + 1e-8)

  def back(g):
    for_scale = (g * centred).sum(0)
    g = g * scale - centred * for_scale * scale**3 / (n - 1)
    return g - g.mean(0)

  return centred * scale, back


def groups(steps):
  """Steps by the codebooks they hold, without parts of others and singles."""
  kinds = {}
  for step in steps:
    step = sorted(step, key=lambda entry: entry[1])
    kinds.setdefault(tuple(k for _, k in step), []).append(step)
  whole = [
    held
    for held in kinds
    if len(held) > 1 and not any(set(held) < set(other) for other in kinds)
  ]
  return [kinds[held] for held in sorted(whole, key=lambda h: (-len(h), h))]


def loss(
  streams, key, kernel, estimator, *, pattern=None, mask=None, standardize=True
):
  """`independence_loss` with the same permutations; see `mmd2`."""
  streams = np.asarray(streams, np.float64)
  batch, frames, books, _ = streams.shape
  mask = np.ones((batch, frames), bool) if mask is None else np.asarray(mask)
  if pattern is None:
    steps = [[(t, k) for k in range(books)] for t in range(frames)]
  else:
    steps = pattern(frames).steps
  value, size, count = 0.0, 0.0, 0
  gradient = np.zeros_like(streams)
  for number, kind in enumerate(groups(steps)):
    rows = [(b, step) for b in range(batch) for step in kind]
    valid = np.array([all(mask[b, t] for t, _ in step) for b, step in rows])
    clip = np.array([[b] * len(step) for b, step in rows])[valid]
    frame = np.array([[t for t, _ in step] for _, step in rows])[valid]
    book = np.array([[k for _, k in step] for _, step in rows])[valid]
    z, back = streams[clip, frame, book], lambda g: g
    n = len(z)
    if standardize:
      z, back = standardized(z)
    if estimator == "dhsic":
      v, g, s = dhsic(z, kernel) if n > 1 else (0.0, np.zeros_like(z), 0.0)
    else:
      draws = jax.random.uniform(
        jax.random.fold_in(key, number), (book.shape[1], len(rows))
      )
      order = np.argsort(np.asarray(draws)[:, valid], axis=1, kind="stable")
      v, g, s = permuted(z, order, kernel)
    value, size, count = value + n * v, size + n * s, count + n
    np.add.at(gradient, (clip, frame, book), n * back(g))
  count = max(count, 1)
  return value / count, gradient / count, size / count


def dependent_codes(
  n, books=2, dim=16, *, copied=0.7, size=32, seed=0, noise=0.0
):
  """Float32 code vectors [n, books, dim] of known dependence.

  Args:
    n: rows; many of them are equal.
    books: codebooks.
    dim: of a vector.
    copied: probability that a codebook's index is the first one's.
    size: of each codebook.
    seed: of all of it.
    noise: added to the vectors, so that no two are equal.
  """
  random = np.random.default_rng(seed)
  vectors = random.standard_normal((books, size, dim))
  first = random.integers(size, size=n)
  codes = np.stack(
    [first]
    + [
      np.where(random.random(n) < copied, first, random.integers(size, size=n))
      for _ in range(books - 1)
    ],
    1,
  )
  z = vectors[np.arange(books), codes]
  z += noise * random.standard_normal(z.shape)
  return (2 * z + 0.5).astype(np.float32)


def assert_equal(found, expected, value=1e-5, gradient=1e-5):
  """Value and gradient against (value, gradient, size of the terms).

  The gradient is compared norm by norm. A value is what is left of means that
  nearly cancel; in float32 no way of adding them up finds it more precisely
  than to some 1e-7 of their size, which is what it may differ by at least.
  """
  found = [np.asarray(f, np.float64) for f in found]
  wanted, slope, size = expected
  allowed = max(value * abs(wanted), 1e-7 * size)
  assert abs(found[0] - wanted) <= allowed, (found[0], wanted, size)
  error = np.linalg.norm(found[1] - slope)
  assert error <= gradient * np.linalg.norm(slope), (
    error,
    np.linalg.norm(slope),
  )
