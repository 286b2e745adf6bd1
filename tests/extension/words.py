"""A condition of a user's own: which words of a list the caption has."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmdcodec.errors import UserError
from mmdcodec.models.condition import Condition, first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words(Condition):
  """A vector for each known word that the caption has.

  Arrays: `has`, bool [batch, words].

  Attributes:
    known: the words.
  """

  kind = "words"

  known: tuple[str, ...]

  def shapes(self):
    """See the base class."""
    return {"has": ((len(self.known),), jnp.bool_)}

  def encode(self, module, arrays):
    """See the base class."""
    table = module.param(
      f"{self.name}_embedding",
      nn.initializers.normal(1.0),
      (len(self.known), module.width),
    )
    has = arrays["has"] & arrays["given"][:, None]
    return jnp.where(has[..., None], table, 0), jnp.ones_like(has)

  def read(self, record, start):
    """See the base class."""
    return first(self.arrays([record["caption"].split()], start))

  def check(self, value, rate):
    """See the base class: a list of words for each piece."""
    if unknown := {word for words in value for word in words} - {*self.known}:
      raise UserError(f"unknown words {unknown}; choose from {self.known}.")
    return list(value)

  def arrays(self, items, start):
    """See the base class."""
    has = [[word in (words or ()) for word in self.known] for words in items]
    given = [words is not None for words in items]
    return {"has": np.array(has), "given": np.array(given)}
