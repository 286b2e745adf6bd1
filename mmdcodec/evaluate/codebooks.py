"""Codebook usage: counts, perplexity, entropy, bits per second.

All measures are computed from a histogram [codebooks, size] over the frames of
a test set; histograms of batches can be added. Entropy is that of each codebook
alone, without a correction for few frames, so it is too low if there are fewer
than about ten frames per code.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.quantize import vector
from mmdcodec.tokenizers.loaded_codec import LoadedCodec


def vectors(codec: LoadedCodec) -> np.ndarray:
  """Returns the code vectors of a codec: float32 [codebooks, size, dim]."""
  return np.asarray(
    codec.model.apply(
      codec.variables, method=lambda model: model.quantizer.embed()
    )
  )


def histogram(
  codes: jax.Array | np.ndarray,
  size: int,
  mask: jax.Array | np.ndarray | None = None,
) -> jax.Array:
  """Counts how often each code was chosen.

  Args:
    codes: int32 [..., frames, codebooks].
    size: codes per codebook.
    mask: [..., frames], False in padding.

  Returns:
    float32 [codebooks, size].
  """
  codes = jnp.asarray(codes)
  weight = jnp.ones(codes.shape[:-1]) if mask is None else jnp.asarray(mask)
  weight = jnp.broadcast_to(
    weight.reshape(1, -1), (codes.shape[-1], weight.size)
  )
  return vector.histogram(codes.reshape(-1, codes.shape[-1]).T, weight, size)


def statistics(counts: jax.Array | np.ndarray) -> dict[str, np.ndarray]:
  """Computes usage and perplexity of each codebook.

  Args:
    counts: [codebooks, size], from `histogram`.

  Returns:
    "usage", the share of codes chosen at least once, and "perplexity", 2 to the
    entropy in bits, both float64 [codebooks].
  """
  counts = np.asarray(counts)
  return {
    "usage": np.mean(counts > 0, -1),
    "perplexity": 2 ** entropy(counts),
  }


def entropy(counts: jax.Array | np.ndarray) -> np.ndarray:
  """Computes the entropy of each codebook in bits.

  Args:
    counts: [codebooks, size].

  Returns:
    float64 [codebooks]; 0 for an empty histogram.
  """
  counts = np.asarray(counts, np.float64)
  p = counts / np.maximum(counts.sum(-1, keepdims=True), 1e-300)
  return -np.sum(p * np.log2(np.where(p > 0, p, 1.0)), -1)


def entropy_bits_per_second(
  frame_rate: float, counts: jax.Array | np.ndarray
) -> float:
  """Computes the bit rate with an ideal entropy coder for each codebook.

  Args:
    frame_rate: Hz.
    counts: [codebooks, size].

  Returns:
    Bits per second.
  """
  return frame_rate * float(entropy(counts).sum())
