"""Selects the parameters that a run trains: all, some, or low-rank additions.

A run keeps the parameters that it trains in `params`, which the optimizer and
averages use, and the others in the collection `frozen`. `split` separates them;
`join` puts them back together inside the step.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax
import jax

from mmdcodec.errors import UserError
from mmdcodec.models import low_rank

# Prefixes of parameters whose layers are stacked.
BLOCKS = ("transformer/blocks/", "depth_transformer/transformer/blocks/")


@dataclasses.dataclass(frozen=True)
class Trainable:
  """Selects the parameters to train.

  Attributes:
    freeze: regular expression; parameters whose paths match are not trained.
      "": none of them.
    rank: rank of low-rank additions, which alone are then trained; 0: none.
    alpha: additions are scaled by alpha / rank.
    on: regular expression for the block kernels that get additions.
  """

  freeze: str = ""
  rank: int = 0
  alpha: float = 16.0
  on: str = r"transformer/blocks/.*kernel$"

  def __post_init__(self) -> None:
    """Checks the settings.

    Raises:
      UserError: an invalid regular expression.
    """
    for name, pattern in (("freeze", self.freeze), ("lora.on", self.on)):
      try:
        re.compile(pattern)
      except re.error as error:
        raise UserError(
          f"{name} is {pattern!r}, not a regular expression: {error}."
        ) from None

  @property
  def scale(self) -> float | None:
    """The scale of the additions; None without any."""
    return self.alpha / self.rank if self.rank else None

  def split(
    self, params: dict[str, Any], key: jax.Array
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separates the parameters to train from the others.

    Args:
      params: all parameters of a model.
      key: random key for the additions.

    Returns:
      (parameters to train, collections with the others).

    Raises:
      UserError: nothing is left to train.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    if self.rank:
      # Other kernels are not stacked and have different axes.
      found = {
        path: w
        for path, w in flat.items()
        if path.startswith(BLOCKS) and re.search(self.on, path)
      }
      trained = {
        f"{low_rank.LORA}/{path}/{name}": x
        for i, (path, w) in enumerate(sorted(found.items()))
        for name, x in low_rank.init(
          w, path, self.rank, jax.random.fold_in(key, i)
        ).items()
      }
      frozen = flat
    else:
      frozen = {
        path: w
        for path, w in flat.items()
        if self.freeze and re.search(self.freeze, path)
      }
      trained = {path: w for path, w in flat.items() if path not in frozen}
    if not trained:
      raise UserError(
        f"nothing is left to train: freeze is {self.freeze!r}, and"
        f" lora.on {self.on!r} at rank {self.rank}."
      )
    nest = lambda flat: flax.traverse_util.unflatten_dict(flat, sep="/")
    return nest(trained), {low_rank.FROZEN: nest(frozen)} if frozen else {}

  def join(
    self, params: dict[str, Any], collections: Mapping[str, Any]
  ) -> dict[str, Any]:
    """Returns all parameters of the model; frozen ones get no gradient."""
    frozen = jax.lax.stop_gradient(collections.get(low_rank.FROZEN, {}))
    return low_rank.join(params, frozen, self.scale)
