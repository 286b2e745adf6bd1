"""Cross-entropy of codes under a language model: its loss, and its measure.

In the order of the model's pattern, every code given all steps before its own;
codes of one step are predicted together. Summed over the codebooks, in bits, it
is what an ideal coder that knows the model spends on a frame.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmdcodec.models.conditioning import Inputs
from mmdcodec.models.token_lm import TokenLM
from mmdcodec.nn.conv import length_mask
from mmdcodec.parallel import rules


def cross_entropy(
  model: TokenLM,
  params: Mapping,
  codes: jax.Array,
  lengths: jax.Array,
  inputs: Inputs | None,
  **options: Any,
) -> tuple[jax.Array, jax.Array]:
  """Nats of every code of a batch.

  Args:
    model: the language model.
    params: its parameters.
    codes: int [batch, frames, codebooks].
    lengths: int [batch], frames that are not padding.
    inputs: what the model is told; None of one that takes nothing.
    **options: of the model's call, such as `train` and `rngs`.

  Returns:
    float32 [batch, steps, codebooks], 0 where there is no code; and a mask of
    the same shape, True where there is one.
  """
  pattern, special = model.pattern_of(codes.shape[1]), model.special
  # Padding is no code, neither to be read nor to be predicted.
  valid = length_mask(lengths, codes.shape[1])[..., None]
  tokens = pattern.build(jnp.where(valid, codes, special), special)
  tokens = rules.constrain(tokens, "batch", None, None)
  logits = model.apply({"params": params}, tokens[:, :-1], inputs, **options)
  wanted = tokens[:, 1:]
  mask = (pattern.frame_of[1:] >= 0) & (wanted != special)
  nats = optax.softmax_cross_entropy_with_integer_labels(
    logits, jnp.where(mask, wanted, 0)
  )
  return jnp.where(mask, nats, 0.0), mask


def summary(nats: np.ndarray, count: np.ndarray) -> dict:
  """Measures of sums over any number of batches.

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
