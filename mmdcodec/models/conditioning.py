"""Turns conditions into the vectors that a language model attends to.

Conditions of all kinds become vectors of the language model's width. They reach
it in one of two ways (MusicGen, Copet et al. 2023, arXiv 2306.05284, 2.4 and
3.3): through cross-attention, or as a prefix to the music.

A missing condition is replaced by an empty one. Training drops conditions from
some of the examples, which classifier-free guidance requires (Ho and Salimans
2022, arXiv 2207.12598).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.models import melody_condition, text_condition, token_conditions
from mmdcodec.models.condition import Arrays, Condition, make_conditions

# Kinds register themselves when they are imported.
BUILT_IN = (
  text_condition.Text,
  melody_condition.Melody,
  token_conditions.Tokens,
  token_conditions.Embedding,
)

# Conditions of a batch by name.
Inputs = dict[str, Arrays]


@flax.struct.dataclass
class EncodedConditions:
  """Vectors of the conditions of a batch.

  Attributes:
    states: float32 [batch, length, any width] for cross-attention, or None.
    states_mask: bool [batch, length].
    prefix: float32 [batch, length, width] before the music, or None.
    prefix_mask: bool [batch, length], False for padding.
  """

  states: Any = None
  states_mask: Any = None
  prefix: Any = None
  prefix_mask: Any = None


class Conditioner(nn.Module):
  """Turns conditions into vectors.

  Attributes:
    width: width of the language model.
    conditions: see `make_conditions`.
    cross: whether the language model has cross-attention.
    dtype: compute dtype.
  """

  width: int
  conditions: Mapping[str, Any]
  cross: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: Inputs) -> EncodedConditions:
    """Vectors of the inputs; those of an item do not depend on others."""
    cross, prefix = [], []
    for condition in make_conditions(self.conditions):
      part = condition.encode(self, inputs[condition.name])
      (cross if self.cross and condition.cross else prefix).append(part)
    return EncodedConditions(*_joined(cross), *_joined(prefix))


def drop(
  conditions: Sequence[Condition],
  inputs: Inputs,
  kept: jax.Array | np.ndarray,
  *names: str,
) -> Inputs:
  """Removes conditions from some items.

  Args:
    conditions: conditions of the model.
    inputs: inputs of a batch.
    kept: bool [batch], False for the items to remove them from.
    *names: names of the conditions; all by default.
  """
  return {
    each.name: each.drop(inputs[each.name], kept)
    if not names or each.name in names
    else inputs[each.name]
    for each in conditions
  }


def _joined(
  parts: Sequence[tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array | None, jax.Array | None]:
  """Concatenates vectors and masks; (None, None) if there are none."""
  if not parts:
    return None, None
  x, mask = zip(*parts, strict=True)
  return jnp.concatenate(x, axis=1), jnp.concatenate(mask, axis=1)
