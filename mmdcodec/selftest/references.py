"""Layers and losses once more, in float64 NumPy, from their definitions.

They share nothing with the package but the names of parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray


def wide(x: Any) -> Array:
  """As float64."""
  return np.asarray(x, np.float64)


def conv(
  x: Any, kernel: Any, *, stride: int = 1, dilation: int = 1,
  causal: bool = True, reflect: bool = False,
) -> Array:  # fmt: skip
  """[batch, time, in], [taps, in, out] -> [batch, ceil(time / stride), out].

  Padded like EnCodec's.
  """
  x, kernel = wide(x), wide(kernel)
  total = (len(kernel) - 1) * dilation + 1 - stride
  right = 0 if causal else total // 2
  count = -(-x.shape[1] // stride)
  more = right + count * stride - x.shape[1]
  room = ((0, 0), (total - right, more), (0, 0))
  x = np.pad(x, room, mode="reflect" if reflect else "constant")
  y = np.zeros((len(x), count, kernel.shape[2]))
  for j, tap in enumerate(kernel):
    first = j * dilation
    y += x[:, first : first + (count - 1) * stride + 1 : stride] @ tap
  return y


def conv_transpose(x: Any, kernel: Any, stride: int) -> Array:
  """y[stride * t + j] += x[t] @ kernel[j], untrimmed."""
  x, kernel = wide(x), wide(kernel)
  batch, time, _ = x.shape
  y = np.zeros((batch, (time - 1) * stride + len(kernel), kernel.shape[2]))
  for t in range(time):
    for j, tap in enumerate(kernel):
      y[:, stride * t + j] += x[:, t] @ tap
  return y


def conv_nd(
  x: Any, kernel: Any, *, strides: Sequence[int], dilations: Sequence[int],
  pads: Sequence[tuple[int, int]], groups: int = 1,
) -> Array:  # fmt: skip
  """[batch, *sizes, in], [*taps, in / groups, out] -> [batch, *sizes, out]."""
  kernel = wide(kernel)
  x = np.pad(wide(x), [(0, 0), *pads, (0, 0)])
  taps = kernel.shape[:-2]
  sizes = [
    (size - (count - 1) * dilation - 1) // stride + 1
    for size, count, dilation, stride in zip(
      x.shape[1:], taps, dilations, strides, strict=False
    )
  ]
  y = np.zeros((len(x), *sizes, kernel.shape[-1]))
  for at in np.ndindex(*taps):
    spans = [
      slice(i * d, i * d + (n - 1) * s + 1, s)
      for i, d, n, s in zip(at, dilations, sizes, strides, strict=True)
    ]
    parts = np.split(x[:, *spans], groups, -1)
    kernels = np.split(kernel[at], groups, -1)
    y += np.concatenate(
      [part @ own for part, own in zip(parts, kernels, strict=True)], -1
    )
  return y


def weight_norm(g: Any, v: Any, axis: int) -> Array:
  """Each slice of v along an axis, as long as its entry of g."""
  g, v = wide(g), np.moveaxis(wide(v), axis, 0)
  rows = v.reshape(len(v), -1)
  rows = rows * (g / np.linalg.norm(rows, axis=1))[:, None]
  return np.moveaxis(rows.reshape(v.shape), 0, axis)


def rotate(x: Any, positions: Any) -> Array:
  """Turns channels i and i + dim / 2 as one complex number.

  [batch, tokens, heads, dim] at positions [batch or 1, tokens].
  """
  a, b = np.split(wide(x), 2, -1)
  rates = 1e4 ** (-np.arange(a.shape[-1]) / a.shape[-1])
  z = (a + 1j * b) * np.exp(1j * wide(positions)[..., None, None] * rates)
  return np.concatenate([z.real, z.imag], -1)


def sinusoids(positions: Any, width: int) -> Array:
  """Cosines, then sines, of rates that fall from 1 to 1e-4."""
  rates = 1e4 ** -np.linspace(0, 1, width // 2)
  angles = wide(positions)[..., None] * rates
  return np.concatenate([np.cos(angles), np.sin(angles)], -1)


def buckets(distance: Any, count: int, far: int) -> Array:
  """T5's bucket of each distance back; those ahead are in the first.

  One distance each in the first half of the buckets, then ever wider ones;
  all from `far` on in the last.
  """
  exact = count // 2
  away = np.maximum(distance, 1)
  # The edge of a bucket belongs to it.
  step = np.log(away / exact) / np.log(far / exact) * (count - exact) + 1e-9
  wider = np.minimum(exact + np.floor(step), count - 1)
  found = np.where(away < exact, away, wider)
  return np.where(np.asarray(distance) > 0, found, 0).astype(int)


def lstm(x: Any, inner: Any, recurrent: Any, bias: Any) -> tuple[Array, Array]:
  """Outputs [batch, time, dim] and the last cell, from zeros."""
  x = wide(x)
  sigmoid = lambda a: 1 / (1 + np.exp(-a))
  h = c = np.zeros((len(x), len(recurrent)))
  out = []
  for t in range(x.shape[1]):
    gates = x[:, t] @ wide(inner) + h @ wide(recurrent) + bias
    i, f, g, o = np.split(gates, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    out.append(h)
  return np.stack(out, 1), c


def softmax(x: Array) -> Array:
  """Over the last axis."""
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def attention(
  q: Any, k: Any, v: Any, mask: Any, bias: Any = 0.0
) -> Array:
  """[batch, queries, heads, dim] and keys of fewer heads -> like queries.

  `mask` bool and `bias` broadcast with [batch, heads, queries, keys].
  """
  q, k, v = (wide(x) for x in (q, k, v))
  shared = q.shape[2] // k.shape[2]
  k, v = (np.repeat(x, shared, axis=2) for x in (k, v))
  logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]) + bias
  weights = softmax(np.where(mask, logits, -np.inf))
  return np.einsum("bhqk,bkhd->bqhd", weights, v)


def nearest(rows: Any, embed: Any) -> tuple[Array, Array]:
  """The nearest code [rows] of each row, and by how much it is nearer.

  The second array is the distance to the second nearest beyond that to the
  nearest, as a share of it.
  """
  apart = wide(rows)[:, None] - wide(embed)
  distance: Array = np.sqrt((apart**2).sum(-1))
  ordered = np.sort(distance, axis=-1)
  first, second = ordered[:, 0], ordered[:, 1]
  return distance.argmin(-1), (second - first) / np.maximum(second, 1e-300)


def residual_codes(z: Any, embed: Any) -> tuple[Array, Array]:
  """Codes [..., levels] of z [..., dim], and whether all before are certain.

  A code is certain if the two nearest entries differ by more than 1e-4 of their
  distance, and so are all codes of the levels before it.
  """
  z = wide(z)
  rest, codes, certain = z.reshape(-1, z.shape[-1]), [], []
  sure = np.ones(len(rest), bool)
  for level in wide(embed):
    found, margin = nearest(rest, level)
    sure = sure & (margin > 1e-4)
    codes.append(found)
    certain.append(sure)
    rest = rest - level[found]
  shape = (*z.shape[:-1], -1)
  return (
    np.stack(codes, -1).reshape(shape),
    np.stack(certain, -1).reshape(shape),
  )


# Squared distances, or products, of rows -> the terms of a kernel.
Terms = Callable[[Array], Sequence[Array]]


def _between(a: Array, b: Array, product: bool = False) -> Array:
  """What a kernel takes of all pairs of rows [n, d] and [m, d]."""
  if product:
    return a @ b.T / a.shape[1]
  size = (a * a).sum(1)[:, None] + (b * b).sum(1)
  return np.maximum(size - 2 * a @ b.T, 0)


def mmd(x: Array, y: Array, terms: Terms, product: bool = False) -> Array:
  """Unbiased MMD^2 of rows [n, d] each.

  Args:
    x: the rows of one.
    y: the rows of the other.
    terms: of the kernel.
    product: whether it takes products.
  """
  n = len(x)

  def total(a: Array, b: Array) -> Array:
    return np.sum(terms(_between(a, b, product)), 0)

  own = sum(k.sum() - np.trace(k) for k in (total(x, x), total(y, y)))
  return np.asarray(own / (n * (n - 1)) - 2 * total(x, y).mean())


def dhsic(z: Array, terms: Terms) -> Array:
  """Computes dHSIC of [n, codebooks, d] without pairs of a row with itself."""
  n, value = len(z), 0.0
  columns = z.swapaxes(0, 1)
  for scale in zip(*(terms(_between(x, x)) for x in columns), strict=True):
    kernel = np.stack(scale)  # [codebooks, n, n]
    kernel[:, np.arange(n), np.arange(n)] = 0
    row = kernel.sum(2) / (n - 1)
    value += kernel.prod(0).sum() / (n * (n - 1))
    value += row.mean(1).prod() - 2 * row.prod(0).mean()
  return np.asarray(value)
