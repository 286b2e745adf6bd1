"""Coding in overlapping chunks, as the 48 kHz EnCodec does.

EnCodec (arXiv 2210.13438), section 3.1: chunks of one second that overlap by
10 ms are coded independently and joined by linear fades. Here a chunk has
`size` samples and a new one starts every `hop` samples.

The frames of the chunks follow one another: ceil(size / stride) frames for each
chunk, and as many as needed for the last one. (If a clip ends inside the
overlap of its last two chunks, the second to last is not full either and its
last frames may be padding.)
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.nn.conv import frames, length_mask, mask_after


def split(x: jax.Array, size: int, hop: int) -> jax.Array:
  """Cuts x [batch, samples, channels] -> [batch, chunks, size, channels].

  There are ceil(samples / hop) chunks, with zeros after the end.
  """
  chunks = frames(x.shape[1], hop)
  short = max(0, (chunks - 1) * hop + size - x.shape[1])
  x = jnp.pad(x, ((0, 0), (0, short), (0, 0)))
  return x[:, _places(chunks, size, hop)]


def _places(chunks: int, size: int, hop: int) -> jax.Array:
  """Index in the clip of each sample of each chunk: [chunks, size]."""
  # Not NumPy: in an exported program the number of chunks is symbolic.
  return jnp.arange(chunks)[:, None] * hop + np.arange(size)


def lengths_of(
  lengths: jax.Array, chunks: int, size: int, hop: int
) -> jax.Array:
  """Valid samples of each chunk: [batch] -> [batch, chunks]."""
  return jnp.clip(lengths[:, None] - jnp.arange(chunks) * hop, 0, size)


def frame_lengths(lengths: Any, size: int, hop: int, stride: int) -> Any:
  """Total number of frames of clips of `lengths` samples (int or array).

  The last chunk has at most `hop` samples, otherwise there would be another.
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
      samples coded per chunk, because a chunk has whole frames.
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
  """`overlap_add` in NumPy, for chunks that arrive a few at a time.

  Args:
    x: [batch, chunks, size, channels].
    hop: samples from one chunk to the next.
    lengths: [batch, chunks], valid samples of each chunk.
    carried: second result of the previous call, or None.

  Returns:
    ([batch, (chunks - 1) * hop + size, channels], `carried` for the next call).
    If more chunks follow, only the first chunks * hop samples are final.
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


def encode(
  codec: nn.Module,
  x: jax.Array,
  lengths: jax.Array | None,
  codebooks: int | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Encodes audio in chunks.

  Args:
    codec: a bound `Codec` with chunks.
    x: [batch, samples, channels].
    lengths: [batch] valid samples, or None.
    codebooks: number of codebooks to use, from the first on; None means all.

  Returns:
    (codes int32 [batch, frames, codebooks], valid frames int32 [batch], scale
    [batch, chunks] or None).
  """
  size, hop = codec.chunk
  batch, samples, channels = x.shape
  if lengths is None:
    lengths = jnp.full((batch,), samples, jnp.int32)
  pieces = split(mask_after(x, lengths), size, hop)
  count = pieces.shape[1]
  ends = lengths_of(lengths, count, size, hop)
  z, scale = codec.analyse(
    pieces.reshape(batch * count, size, channels), ends.reshape(-1)
  )
  codes = codec.quantizer.encode(z, codebooks)
  codes = mask_after(codes, frames(ends, codec.stride).reshape(-1))
  total = frame_lengths(samples, size, hop, codec.stride)
  codes = codes.reshape(batch, -1, codes.shape[-1])[:, :total]
  ends = frame_lengths(lengths, size, hop, codec.stride)
  scale = None if scale is None else scale.reshape(batch, count)
  return mask_after(codes, ends), ends.astype(jnp.int32), scale


def decode(
  codec: nn.Module,
  codes: jax.Array,
  scale: jax.Array | None,
  lengths: jax.Array | None,
) -> jax.Array:
  """Decodes codes in chunks to audio.

  Args:
    codec: a bound `Codec` with chunks.
    codes: int32 [batch, frames, k].
    scale: [batch, chunks] or None.
    lengths: [batch] valid samples; None means whole frames.

  Returns:
    float32 [batch, samples, channels].
  """
  size, hop = codec.chunk
  per_chunk = codec.frames_per_chunk
  batch, total, books = codes.shape
  count = frames(total, per_chunk)
  codes = jnp.pad(codes, ((0, 0), (0, count * per_chunk - total), (0, 0)))
  if lengths is None:
    ends = jnp.clip(total - jnp.arange(count) * per_chunk, 0, per_chunk)
    ends = jnp.broadcast_to(ends, (batch, count))
  else:
    ends = lengths_of(lengths, count, size, hop)
    ends = frames(ends, codec.stride)
  z = codec.quantizer.decode(codes).reshape(batch * count, per_chunk, -1)
  if scale is not None:
    # Frames of padding may add chunks that the clip does not have.
    short = max(0, count - scale.shape[1])
    scale = jnp.pad(scale, ((0, 0), (0, short)), constant_values=1.0)
    scale = scale[:, :count].reshape(-1, 1)
  x = codec.synthesize_frames(z, ends.reshape(-1), scale)
  x = x.reshape(batch, count, -1, codec.channels)
  x = overlap_add(x, hop, ends * codec.stride)
  return mask_after(x[:, : codec.samples_of(total)], lengths)
