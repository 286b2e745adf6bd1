"""Turns conditions into the vectors that a language model attends to.

Conditions of all kinds become vectors of the language model's width. They reach
it in one of three ways: through cross-attention, as a prefix to the music
(MusicGen, Copet et al. 2023, arXiv 2306.05284, 2.4 and 3.3), or added to the
music at the same time (SoundStorm, Borsos et al. 2023, arXiv 2305.09636, 3.1).

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
    added: float32 [batch, frames, width], the sum for each frame of the music,
      or None.
  """

  states: Any = None
  states_mask: Any = None
  prefix: Any = None
  prefix_mask: Any = None
  added: Any = None

  def at(self, frames: jax.Array | np.ndarray) -> jax.Array:
    """What is added to steps.

    Args:
      frames: int [steps], the frame of the music that each of them predicts.

    Returns:
      float32 [batch, steps, width]; 0 after the last frame.
    """
    return jnp.take(self.added, frames, axis=1, mode="fill", fill_value=0)


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
    cross, prefix, added = [], [], []
    for condition in make_conditions(self.conditions):
      part = condition.encode(self, inputs[condition.name])
      if condition.added:
        added.append(jnp.repeat(part[0], condition.added, axis=1))
      else:
        (cross if self.cross and condition.cross else prefix).append(part)
    return EncodedConditions(*_joined(cross), *_joined(prefix), _sum(added))


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


def _sum(parts: Sequence[jax.Array]) -> jax.Array | None:
  """Adds vectors [batch, frames, width] of any lengths; None without any."""
  if not parts:
    return None
  frames = max(part.shape[1] for part in parts)
  padded = [
    jnp.pad(part, ((0, 0), (0, frames - part.shape[1]), (0, 0)))
    for part in parts
  ]
  return sum(padded[1:], padded[0])


def _joined(
  parts: Sequence[tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array | None, jax.Array | None]:
  """Concatenates vectors and masks; (None, None) if there are none."""
  if not parts:
    return None, None
  x, mask = zip(*parts, strict=True)
  return jnp.concatenate(x, axis=1), jnp.concatenate(mask, axis=1)
