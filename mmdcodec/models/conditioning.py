"""What music is to be like: text, a melody, tokens of a joint embedding.

Inputs of all kinds become vectors of the language model's width. They reach it
in one of two ways (MusicGen, Copet et al. 2023, arXiv 2306.05284, 2.4 and 3.3):
text through cross-attention, everything else, or all of it in a model without
cross-attention, as a prefix to the music.

A condition that is not given is still a condition, the empty one: a part of the
examples is trained with it, and guidance needs it (Ho and Salimans 2022, arXiv
2207.12598).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.models.text_encoder import T5Encoder
from mmdcodec.nn.attention import kernel_init


@flax.struct.dataclass
class Inputs:
  """What is asked for, of every item of a batch; None where a model takes none.

  Attributes:
    text: int [batch, tokens].
    text_mask: bool [batch, tokens], False in padding.
    has_text: bool [batch]. Where it is False the text is the empty one; its
      length still counts in a prefix.
    melody: int [batch, melody frames], the strongest pitch class; class 0 all
      along is the empty melody.
    joint: int [batch, codebooks], tokens of a joint embedding of text and
      music.
    has_joint: bool [batch].
  """

  text: Any = None
  text_mask: Any = None
  has_text: Any = None
  melody: Any = None
  joint: Any = None
  has_joint: Any = None

  def without(self, kept: jax.Array | np.ndarray, *kinds: str) -> "Inputs":
    """Takes conditions away.

    Args:
      kept: bool [batch], False for the items to take them from.
      *kinds: of "text", "melody" and "joint"; all by default.
    """
    kinds = kinds or ("text", "melody", "joint")
    new = {}
    if self.text is not None and "text" in kinds:
      new["has_text"] = self.has_text & kept
    if self.melody is not None and "melody" in kinds:
      new["melody"] = jnp.where(kept[:, None], self.melody, 0)
    if self.joint is not None and "joint" in kinds:
      new["has_joint"] = self.has_joint & kept
    return self.replace(**new)


@flax.struct.dataclass
class Conditions:
  """Vectors that the language model sees beside the music.

  Attributes:
    states: float32 [batch, length, any width] for cross-attention, or None.
    states_mask: bool [batch, length].
    prefix: float32 [batch, length, width] before the music, or None.
    prefix_mask: bool [batch, length], False for places that are not there.
  """

  states: Any = None
  states_mask: Any = None
  prefix: Any = None
  prefix_mask: Any = None


class Conditioner(nn.Module):
  """Inputs to vectors.

  Attributes:
    width: of the language model.
    text: fields of a T5Encoder, or None.
    melody: pitch classes, or 0.
    joint: (codebooks, size) of the tokens of a joint embedding, or ().
    cross: whether text and joint tokens go through cross-attention.
    dtype: of the computation.
  """

  width: int
  text: Mapping | None = None
  melody: int = 0
  joint: Sequence[int] = ()
  cross: bool = True
  dtype: Any = jnp.float32

  def setup(self):
    """Builds what encodes each kind of input."""
    dense = lambda: nn.Dense(
      self.width, kernel_init=kernel_init(), dtype=jnp.float32
    )
    if self.text is not None:
      self.text_encoder = T5Encoder(**self.text, dtype=self.dtype)
      # As in the public models: none where the widths agree.
      if self.text["width"] != self.width:
        self.text_projection = dense()
    if self.melody:
      self.melody_projection = dense()
    if self.joint:
      books, size = self.joint
      self.joint_embedding = self.param(
        "joint_embedding",
        nn.initializers.normal(1.0),
        (books, size, self.width),
      )

  def __call__(self, inputs: Inputs) -> Conditions:
    """Vectors of the inputs; an item's do not depend on those beside it."""
    prefix, cross = [], []
    if self.melody:
      x = self.melody_projection(jax.nn.one_hot(inputs.melody, self.melody))
      prefix.append((x, jnp.ones(x.shape[:2], bool)))
    if self.text is not None:
      mask = inputs.text_mask
      x = self.text_encoder(inputs.text, mask)
      if self.text["width"] != self.width:
        x = self.text_projection(x)
      # Zeros are the empty text: attention to them adds nothing, and as a
      # prefix they are what the public models were trained with.
      x = jnp.where((mask & inputs.has_text[:, None])[..., None], x, 0)
      (cross if self.cross else prefix).append((x, mask))
    if self.joint:
      table = jnp.asarray(self.joint_embedding)
      x = table[np.arange(self.joint[0]), inputs.joint]
      x = jnp.where(inputs.has_joint[:, None, None], x, 0)
      (cross if self.cross else prefix).append((x, jnp.ones(x.shape[:2], bool)))
    return Conditions(*_joined(cross), *_joined(prefix))


def _joined(parts: list) -> tuple:
  """Vectors and masks, one after the other; (None, None) of none."""
  if not parts:
    return None, None
  x, mask = zip(*parts, strict=True)
  return jnp.concatenate(x, axis=1), jnp.concatenate(mask, axis=1)
