"""The likelihood of codes under a language model, to train and evaluate it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmdcodec.losses.cross_entropy import cross_entropy
from mmdcodec.models.conditioning import Inputs
from mmdcodec.models.token_lm import TokenLM
from mmdcodec.nn.conv import length_mask
from mmdcodec.parallel import rules
from mmdcodec.quantize.repeats import collapse_repeats


def nats_of_codes(
  model: TokenLM,
  params: Mapping[str, Any],
  codes: jax.Array,
  lengths: jax.Array,
  inputs: Inputs,
  **options: Any,
) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy of every code in nats, in the order of the model's pattern.

  Every code is conditioned on all steps before its own. The codes of one step
  are predicted together, independently; or by a depth transformer, each given
  those of the codebooks before it. A model that learns codes without repeats
  predicts one frame of each run of equal ones.

  Args:
    model: the language model.
    params: its parameters.
    codes: int [batch, frames, codebooks].
    lengths: int [batch], frames that are not padding.
    inputs: the conditions.
    **options: options of the model's call, such as `train` and `rngs`.

  Returns:
    float32 [batch, steps, codebooks], 0 where there is no code; and a mask of
    the same shape, True where there is one.
  """
  if model.collapse:
    codes, lengths = collapse_repeats(codes, lengths)
  pattern, special = model.pattern_of(codes.shape[1]), model.special
  # Padding is not a code: it is neither read nor predicted.
  valid = length_mask(lengths, codes.shape[1])[..., None]
  tokens = pattern.build(jnp.where(valid, codes, special), special)
  tokens = rules.constrain(tokens, "batch", None, None)
  targets = tokens[:, 1:]
  logits = jnp.asarray(
    model.apply(
      {"params": params},
      tokens[:, :-1],
      inputs,
      targets=targets,
      frames=pattern.frame_of_step,
      **options,
    )
  )
  mask = jnp.asarray((pattern.frame_of[1:] >= 0) & (targets != special))
  return cross_entropy(logits, targets, mask), mask
