"""The modified discrete cosine transform, its sine partner and its inverse.

The MDCT (Princen, Johnson and Bradley, ICASSP 1987) is a lapped orthogonal
transform. A frame of `hop` coefficients sees 2 * hop samples under a sine
window, and neighbours, which overlap by half, cancel each other's aliasing. In
halves of a hop, frame t sees

     a       b       c       d
  ------- =============== -------    b, c: samples [t * hop, (t + 1) * hop)
    window rises, then falls         a, d: the halves next to them

It folds them to (-c' - d, a - b'), where ' means reversed, and applies an
orthonormal DCT-IV. The MDST folds to (c' - d, a + b') and applies a DST-IV.
Both together have a magnitude and a phase, as an STFT has (the modulated
complex lapped transform: Malvar, ICASSP 1999).

Aliasing mirrors samples at the boundaries between frames, and the ends of a
clip lie on such boundaries. There the window is a step, 0 outside of the clip
and 1 inside: n frames hold n * hop samples, the transform of a clip is
orthogonal, and its inverse is exact from the first sample to the last.

DCT-IV and DST-IV are complex FFTs of hop / 2 points; on TPUs, a matrix product.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec import platform

# (c, d) of the last frame of the piece before, after the window.
Overlap = tuple[jax.Array, jax.Array]


def mclt(
  x: jax.Array,
  hop: int,
  ends: Any = None,
  *,
  before: jax.Array | None = None,
  after: jax.Array | None = None,
  starts: Any = True,
) -> tuple[jax.Array, jax.Array]:
  """MDCT and MDST of a clip, or of a piece of one.

  Args:
    x: float32 [..., frames * hop], zero after the end of a clip.
    hop: samples per frame, an even number.
    ends: int [...], frames until the clip ends; more than there are means that
      it goes on after x. None: it ends with x.
    before: [..., hop / 2], the samples before x. None: zeros.
    after: [..., hop / 2], the samples after x. None: zeros.
    starts: bool [...], whether the clip starts with x.

  Returns:
    (MDCT, MDST), float32 [..., frames, hop].

  Raises:
    ValueError: the hop is odd, or x has no whole number of frames.
  """
  if hop % 2 or x.shape[-1] % hop:
    raise ValueError(
      f"{x.shape[-1]} samples in frames of {hop}: expected whole frames of an"
      " even number of samples"
    )
  count = x.shape[-1] // hop
  outside = jnp.zeros((*x.shape[:-1], hop // 2), x.dtype)
  halves = x.reshape(*x.shape[:-1], count, 2, hop // 2)
  b, c = halves[..., 0, :], halves[..., 1, :]
  a = _shift(c, outside if before is None else before, right=True)
  d = _shift(b, outside if after is None else after, right=False)
  a, b, c, d = (
    half * window
    for half, window in zip(
      (a, b, c, d), _windows(count, hop, starts, ends), strict=True
    )
  )
  b, c = b[..., ::-1], c[..., ::-1]
  cosines = jnp.concatenate([-c - d, a - b], -1)
  sines = jnp.concatenate([c - d, a + b], -1)
  # A DST-IV is the DCT-IV of the reversed input with alternating signs.
  signs = np.where(np.arange(hop) % 2, -1, 1).astype(np.float32)
  found = dct_iv(jnp.stack([cosines, sines[..., ::-1]]))
  return found[0], found[1] * signs


def imdct(coefficients: jax.Array, hop: int, ends: Any = None) -> jax.Array:
  """Inverse MDCT of whole clips.

  Args:
    coefficients: float32 [..., frames, hop].
    hop: samples per frame, an even number.
    ends: int [...], frames of each clip; None: all.

  Returns:
    float32 [..., frames * hop]; not zero after the end of a clip.
  """
  y, tail, _ = imdct_piece(coefficients, hop, ends)
  return jnp.concatenate([y[..., hop // 2 :], tail], -1)


def imdct_piece(
  coefficients: jax.Array,
  hop: int,
  ends: Any = None,
  *,
  overlap: Overlap | None = None,
  starts: Any = True,
) -> tuple[jax.Array, jax.Array, Overlap]:
  """Inverse MDCT of a piece of a clip.

  The last half of a frame is complete only with the next frame, so the samples
  of a piece start half a hop early and end half a hop early.

  Args:
    coefficients: float32 [..., frames, hop].
    hop: samples per frame, an even number.
    ends: int [...], frames until the clip ends, as in `mclt`.
    overlap: from the piece before. None: zeros.
    starts: bool [...], whether the clip starts with this piece.

  Returns:
    (y, tail, overlap): y float32 [..., frames * hop], of which the first
    hop / 2 samples precede this piece; tail [..., hop / 2], the samples after
    those if the clip ends with this piece; `overlap` for the next piece.
  """
  count = coefficients.shape[-2]
  folded = dct_iv(coefficients)
  u, v = folded[..., : hop // 2], folded[..., hop // 2 :]
  sizes = (v, -v[..., ::-1], -u[..., ::-1], -u)
  a, b, c, d = (
    half * window
    for half, window in zip(
      sizes, _windows(count, hop, starts, ends), strict=True
    )
  )
  if overlap is None:
    overlap = jnp.zeros_like(c[..., 0, :]), jnp.zeros_like(d[..., 0, :])
  first = a + _shift(c, overlap[0], right=True)
  second = b + _shift(d, overlap[1], right=True)
  y = jnp.stack([first, second], -2)
  y = y.reshape(*y.shape[:-3], count * hop)
  return y, -u[..., -1, ::-1], (c[..., -1, :], d[..., -1, :])


def dct_iv(x: jax.Array) -> jax.Array:
  """Orthonormal DCT-IV of the last axis, which is its own inverse.

  y[k] = sqrt(2 / n) sum_j x[j] cos(pi / n (j + 1/2) (k + 1/2)).

  Args:
    x: float32 [..., n], n even.
  """
  n = x.shape[-1]
  if platform.traced_for() == "tpu":
    return jnp.matmul(x, _basis(n), precision=jax.lax.Precision.HIGHEST)
  # As an FFT of n / 2 points between two rotations (Britanak, Yip and Rao,
  # "Discrete cosine and sine transforms", 2007, section 4.3).
  turn = np.exp(-1j * np.pi / n * (np.arange(n // 2) + 0.125))
  before, after = turn * math.sqrt(2 / n), turn
  z = jax.lax.complex(x[..., ::2], x[..., ::-1][..., ::2])
  z = jnp.fft.fft(z * before.astype(np.complex64))
  z = z * after.astype(np.complex64)
  pairs = jnp.stack([z.real, -z.imag[..., ::-1]], -1)
  return pairs.reshape(x.shape)


def _basis(n: int) -> jax.Array:
  """The matrix of `dct_iv`, computed on the device: a constant is too big."""
  odd = 2 * jnp.arange(n) + 1
  # Whole numbers of 8 n parts of a turn: float32 angles stay below one turn.
  parts = (odd[:, None] * odd) % (8 * n)
  return math.sqrt(2 / n) * jnp.cos(
    parts.astype(jnp.float32) * (np.pi / (4 * n))
  )


def _shift(halves: jax.Array, other: jax.Array, *, right: bool) -> jax.Array:
  """Shifts [..., frames, hop / 2] by a frame; `other` [..., hop / 2] enters."""
  other = other[..., None, :]
  if right:
    return jnp.concatenate([other, halves[..., :-1, :]], -2)
  return jnp.concatenate([halves[..., 1:, :], other], -2)


def _windows(
  count: int, hop: int, starts: Any, ends: Any
) -> tuple[Any, jax.Array, jax.Array, Any]:
  """Windows of a, b, c and d, with steps at the ends of clips.

  a and d are outside of the clip there: whoever uses them sees zeros, or drops
  them.
  """
  sine = np.sin(np.pi / (2 * hop) * (np.arange(2 * hop) + 0.5))
  a, b, c, d = sine.astype(np.float32).reshape(4, -1)
  at = jnp.arange(count)
  ends = count if ends is None else ends
  first = (at == 0) & jnp.asarray(starts)[..., None]
  last = at == jnp.asarray(ends)[..., None] - 1
  return (
    a,
    jnp.where(first[..., None], 1, b),
    jnp.where(last[..., None], 1, c),
    d,
  )
