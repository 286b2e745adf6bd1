"""Spectra of overlapping frames, and audio from their magnitudes alone.

A clip of n * hop samples has 2 n spectra, one for every half hop: Hann windows
of 4 * hop samples around the middle of each half. Each sample lies in eight
windows, so the magnitudes nearly determine the audio, and the phases need not
be coded.

`griffin_lim` finds phases by alternating projections (Griffin and Lim, IEEE
TASSP 1984) with the momentum of Perraudin, Balazs and Sondergaard (WASPAA
2013). It starts with all windows in phase at their middles, not at random, so a
spectrum depends on nothing but the magnitudes around it: seven spectra more in
each direction for every iteration (`context`). A long clip may therefore be
synthesized piece by piece.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.nn.conv import length_mask

# Spectra per hop, and half hops in a window.
PER_HOP, OVERLAP = 2, 8
# Of the accelerated iteration; 0.99 is recommended.
MOMENTUM = 0.99


def bins(hop: int) -> int:
  """Bins of a spectrum for `hop` samples, a multiple of 4."""
  return OVERLAP // 2 * hop // 2 + 1


def energy(hop: int) -> float:
  """Mean square of a bin for white noise of variance 1."""
  return float((_window(hop) ** 2).sum())


def context(iterations: int) -> int:
  """Whole frames on each side of one that its audio depends on."""
  reach = (OVERLAP - 1) * iterations + OVERLAP // 2
  return -(-reach // PER_HOP)


def start(hop: int) -> np.ndarray:
  """Phases to start with, complex64 [bins]: 0 in the middle of the window."""
  return np.where(np.arange(bins(hop)) % 2, -1, 1).astype(np.complex64)


def spectra(x: jax.Array, hop: int) -> jax.Array:
  """Spectra of a clip.

  Args:
    x: float32 [..., frames * hop], zero after the end of a clip.
    hop: samples per frame, a multiple of 4.

  Returns:
    complex64 [..., 2 * frames, bins(hop)].

  Raises:
    ValueError: the hop is not a multiple of 4, or x has no whole number of
      frames.
  """
  if hop % 4 or x.shape[-1] % hop:
    raise ValueError(
      f"{x.shape[-1]} samples in frames of {hop}: expected whole frames of a"
      " multiple of 4 samples"
    )
  step, margin = hop // PER_HOP, _margin(hop)
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(margin, margin)])
  parts = x.reshape(*x.shape[:-1], -1, step)
  count = parts.shape[-2] - OVERLAP + 1
  windows = jnp.concatenate(
    [parts[..., i : i + count, :] for i in range(OVERLAP)], -1
  )
  return jnp.fft.rfft(windows * _window(hop))


def overlap_add(
  spectrum: jax.Array, hop: int, ends: jax.Array | None = None
) -> jax.Array:
  """The clip whose spectra are nearest to given ones; inverts `spectra`.

  Args:
    spectrum: complex64 [batch, ..., 2 * frames, bins(hop)], zero after `ends`.
    hop: samples per frame, a multiple of 4.
    ends: int [batch], frames of each clip; None means all.

  Returns:
    float32 [batch, ..., frames * hop]; not zero after the end of a clip.
  """
  count, step = spectrum.shape[-2], hop // PER_HOP
  window = _window(hop)
  y = jnp.fft.irfft(spectrum, n=OVERLAP * step) * window
  y = y.reshape(*y.shape[:-1], OVERLAP, step)
  # Windows after the end do not count: a clip is the same alone and padded.
  valid = jnp.ones((1, count), jnp.float32)
  if ends is not None:
    valid = length_mask(PER_HOP * ends, count).astype(jnp.float32)
  power = jnp.reshape(window**2, (OVERLAP, step)) * valid[..., None, None]
  total = _add(y) / jnp.maximum(
    _add(power).reshape(valid.shape[0], *(1,) * (y.ndim - 4), -1), 1e-3
  )
  margin = _margin(hop)
  return total[..., margin : total.shape[-1] - margin]


def griffin_lim(
  magnitudes: jax.Array,
  hop: int,
  iterations: int,
  ends: jax.Array | None = None,
) -> jax.Array:
  """Audio with given magnitudes.

  Args:
    magnitudes: float32 [batch, ..., 2 * frames, bins(hop)], zero after `ends`.
    hop: samples per frame, a multiple of 4.
    iterations: each takes two FFTs of every spectrum.
    ends: int [batch], frames of each clip; None means all.

  Returns:
    float32 [batch, ..., frames * hop]; not zero after the end of a clip.
  """
  samples = magnitudes.shape[-2] // PER_HOP * hop

  def audio(unit: jax.Array) -> jax.Array:
    return overlap_add(magnitudes * unit, hop, ends)

  def improve(
    _: Any, carry: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    unit, before = carry
    y = audio(unit)
    if ends is not None:
      heard = length_mask(ends * hop, samples)
      heard = heard.reshape(y.shape[0], *(1,) * (y.ndim - 2), samples)
      y = jnp.where(heard, y, 0)
    now = spectra(y, hop)
    ahead = now + MOMENTUM * (now - before)
    # 1e-20: neither 0 / 0 nor, squared, the end of float32.
    return ahead * jax.lax.rsqrt(jnp.abs(ahead) ** 2 + 1e-20), now

  unit = jnp.broadcast_to(start(hop), magnitudes.shape)
  unit, _ = jax.lax.fori_loop(
    0, iterations, improve, (unit, jnp.zeros_like(unit))
  )
  return audio(unit)


def _window(hop: int) -> np.ndarray:
  size = OVERLAP // 2 * hop
  return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(
    np.float32
  )


def _margin(hop: int) -> int:
  """Samples of the first window before the clip."""
  return (OVERLAP - 1) * hop // 4


def _add(parts: jax.Array) -> jax.Array:
  """Overlaps [..., windows, OVERLAP, step] to [..., samples]."""
  *batch, count, _, step = parts.shape
  rest = [(0, 0)] * len(batch)
  total = sum(
    jnp.pad(parts[..., i, :], [*rest, (i, OVERLAP - 1 - i), (0, 0)])
    for i in range(OVERLAP)
  )
  return jnp.reshape(total, (*batch, -1))
