"""Codebook usage: counts, perplexity, entropy, bits per second.

A histogram [codebooks, size] over all frames of a test set comes first;
histograms of batches add up. Everything else follows from it. Entropy is that
of each codebook alone, as the histogram has it (no correction for few frames,
so it is too low when there are fewer than about ten frames per code).
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.quantize import vector


def vectors(codec) -> np.ndarray:
  """The code vectors of a `LoadedCodec`: float32 [codebooks, size, dim]."""
  return np.asarray(
    codec.model.apply(
      codec.variables, method=lambda model: model.quantizer.embed()
    )
  )


def histogram(
  codes: jax.Array, size: int, mask: jax.Array | None = None
) -> jax.Array:
  """How often each code was chosen.

  Args:
    codes: int32 [..., frames, codebooks].
    size: codes per codebook.
    mask: [..., frames], False leaves a frame out.

  Returns:
    float32 [codebooks, size].
  """
  codes = jnp.asarray(codes)
  weight = jnp.ones(codes.shape[:-1]) if mask is None else jnp.asarray(mask)
  weight = jnp.broadcast_to(
    weight.reshape(1, -1), (codes.shape[-1], weight.size)
  )
  return vector.histogram(codes.reshape(-1, codes.shape[-1]).T, weight, size)


def statistics(counts: jax.Array) -> dict[str, np.ndarray]:
  """Usage and perplexity of each codebook.

  Args:
    counts: [codebooks, size], from `histogram`.

  Returns:
    "usage", the share of the codes that were chosen at all, and "perplexity",
    2 to the entropy in bits, both float64 [codebooks].
  """
  counts = np.asarray(counts)
  return {
    "usage": np.mean(counts > 0, -1),
    "perplexity": 2 ** entropy(counts),
  }


def entropy(counts: jax.Array) -> np.ndarray:
  """Entropy of the choice of code in bits.

  Args:
    counts: [codebooks, size].

  Returns:
    float64 [codebooks]; 0 where nothing was counted.
  """
  counts = np.asarray(counts, np.float64)
  p = counts / np.maximum(counts.sum(-1, keepdims=True), 1e-300)
  return -np.sum(p * np.log2(np.where(p > 0, p, 1.0)), -1)


def entropy_bits_per_second(frame_rate: float, counts: jax.Array) -> float:
  """Rate if each codebook had an ideal entropy coder of its own."""
  return frame_rate * float(entropy(counts).sum())
