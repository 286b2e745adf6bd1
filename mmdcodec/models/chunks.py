"""Coding in overlapping chunks, as the 48 kHz EnCodec does.

EnCodec (arXiv 2210.13438), section 3.1: chunks of one second that overlap by
10 ms are coded each on its own and joined by linear fades. Here a chunk has
`size` samples and a new one starts every `hop`.

Chunks and their frames lie one after the other, each chunk in ceil(size /
stride) frames but the last one, which has the frames it needs. (If a clip ends
inside the overlap of its last two chunks, the last but one is not full either
and its last frames may be padding.)
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.nn.conv import frames, length_mask


def split(x: jax.Array, size: int, hop: int) -> jax.Array:
  """Cuts x [batch, samples, channels] -> [batch, chunks, size, channels].

  There are ceil(samples / hop) chunks; what lies after the end is zero.
  """
  chunks = frames(x.shape[1], hop)
  short = max(0, (chunks - 1) * hop + size - x.shape[1])
  x = jnp.pad(x, ((0, 0), (0, short), (0, 0)))
  return x[:, _places(chunks, size, hop)]


def _places(chunks: int, size: int, hop: int) -> jax.Array:
  """Sample of the clip that each sample of a chunk is: [chunks, size]."""
  # Not NumPy: in an exported program the number of chunks is a symbol.
  return jnp.arange(chunks)[:, None] * hop + np.arange(size)


def lengths_of(lengths: jax.Array, chunks: int, size: int, hop: int):
  """Valid samples of each chunk: [batch] -> [batch, chunks]."""
  return jnp.clip(lengths[:, None] - jnp.arange(chunks) * hop, 0, size)


def frame_lengths(lengths, size: int, hop: int, stride: int):
  """Frames that a clip of `lengths` samples (int or array) takes in all.

  The last chunk has at most `hop` samples, for else there would be another.
  """
  full = frames(lengths, hop) - 1
  total = full * frames(size, stride) + frames(lengths - full * hop, stride)
  return total * (lengths > 0)


def fade(size: int) -> np.ndarray:
  """Triangular weights [size] of a chunk, positive everywhere."""
  ramp = np.linspace(0, 1, size + 2, dtype=np.float32)[1:-1]
  return 0.5 - np.abs(ramp - 0.5)


def overlap_add(x: jax.Array, hop: int, lengths: jax.Array) -> jax.Array:
  """Joins decoded chunks, weighted by `fade` over the sum of the weights.

  Args:
    x: [batch, chunks, size, channels]; `size` may be a little more than the
      samples coded per chunk, because a chunk is whole frames.
    hop: samples from one chunk to the next.
    lengths: [batch, chunks], valid samples of each chunk.

  Returns:
    [batch, (chunks - 1) * hop + size, channels], zero where no chunk reaches.
  """
  batch, chunks, size, channels = x.shape
  valid = length_mask(lengths.reshape(-1), size).reshape(batch, chunks, size)
  weight = jnp.where(valid, fade(size), 0)[..., None]
  total = (chunks - 1) * hop + size
  out = jnp.zeros((batch, total, channels), x.dtype)
  norm = jnp.zeros((batch, total, 1), x.dtype)
  places = _places(chunks, size, hop)
  out = out.at[:, places].add(x * weight)
  norm = norm.at[:, places].add(weight)
  return jnp.where(norm > 0, out / jnp.where(norm > 0, norm, 1), 0)


def join(
  x: np.ndarray, hop: int, lengths: np.ndarray, carried: tuple | None
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
  """`overlap_add` in NumPy, for chunks that come a few at a time.

  Args:
    x: [batch, chunks, size, channels].
    hop: samples from one chunk to the next.
    lengths: [batch, chunks], valid samples of each chunk.
    carried: from the chunks before, or None.

  Returns:
    ([batch, (chunks - 1) * hop + size, channels], what to carry on). If more
    chunks come, only the first chunks * hop samples are done.
  """
  batch, count, size, channels = x.shape
  weight = np.where(np.arange(size) < lengths[..., None], fade(size), 0)
  weight = weight[..., None].astype(x.dtype)
  out = np.zeros((batch, (count - 1) * hop + size, channels), x.dtype)
  norm = np.zeros_like(out[..., :1])
  if carried is not None:
    out[:, : size - hop], norm[:, : size - hop] = carried
  for i in range(count):
    at = slice(i * hop, i * hop + size)
    out[:, at] += x[:, i] * weight[:, i]
    norm[:, at] += weight[:, i]
  rest = out[:, count * hop :].copy(), norm[:, count * hop :].copy()
  return np.divide(out, norm, out=np.zeros_like(out), where=norm > 0), rest
