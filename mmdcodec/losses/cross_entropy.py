"""Cross-entropy of codes: the loss and the metric of a language model.

Summed over the codebooks, in bits, it is the cost of a frame for an ideal
entropy coder that uses the model.
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
  """Returns the cross-entropy of every code in nats.

  Args:
    logits: float32 [..., size], before the softmax.
    tokens: int [...], the actual codes; ignored where `mask` is False.
    mask: bool [...], True where there is a code.

  Returns:
    float32 [...], 0 where there is no code.
  """
  nats = optax.softmax_cross_entropy_with_integer_labels(
    logits, jnp.where(mask, tokens, 0)
  )
  return jnp.where(mask, nats, 0.0)


def summary(nats: np.ndarray, count: np.ndarray) -> dict[str, Any]:
  """Returns metrics from sums over any number of batches.

  Args:
    nats: [codebooks], sums over all codes.
    count: [codebooks], numbers of codes.

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
