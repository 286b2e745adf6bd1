"""Cross-entropy of codes: the loss of a language model, and its measure.

Summed over the codebooks, in bits, it is what an ideal coder that knows the
model spends on a frame.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def cross_entropy(
  logits: jax.Array, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
  """Nats of every code.

  Args:
    logits: float32 [..., size], before the softmax.
    tokens: int [...], the codes that came; anything where `mask` is False.
    mask: bool [...], True where there is a code.

  Returns:
    float32 [...], 0 where there is no code.
  """
  nats = optax.softmax_cross_entropy_with_integer_labels(
    logits, jnp.where(mask, tokens, 0)
  )
  return jnp.where(mask, nats, 0.0)


def summary(nats: np.ndarray, count: np.ndarray) -> dict[str, Any]:
  """Measures from sums over any number of batches.

  Args:
    nats: [codebooks], of all codes together.
    count: [codebooks], of the codes.

  Returns:
    `bits_per_frame`, the sum over codebooks; and for each codebook
    `cross_entropy` (nats per code) and `perplexity`.
  """
  each = np.float64(nats) / np.maximum(count, 1)
  return {
    "bits_per_frame": each.sum() / math.log(2),
    "cross_entropy": each,
    "perplexity": np.exp(each),
  }
