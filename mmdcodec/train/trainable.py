"""Which parameters of a model a run trains: all, some, or low-rank additions.

A run's state holds what it trains in `params`, where optimizer, averages and
gradients are, and the rest in the collection `frozen`. `split` takes a model's
parameters apart so, `join` makes them whole again, inside of the step.

Low-rank adaptation (Hu et al. 2022, arXiv 2106.09685) needs no change of any
module: a kernel W is used as W + alpha / rank * A B, where A and B are what is
trained. B starts at 0, so that training starts from the model as it is.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp

from mmdcodec.errors import UserError

FROZEN, LORA = "frozen", "lora"
# Where kernels are stacked.
BLOCKS = "transformer/blocks/"


@dataclasses.dataclass(frozen=True)
class Trainable:
  """What is trained of a model.

  Attributes:
    freeze: regular expression, searched in a parameter's path; what matches
      stays as it is. "": nothing.
    rank: of additions to kernels, which alone are trained; 0: there are none.
    alpha: scale of the additions, times rank.
    on: regular expression of the kernels of blocks that get one.
  """

  freeze: str = ""
  rank: int = 0
  alpha: float = 16.0
  on: str = r"transformer/blocks/.*kernel$"

  def __post_init__(self):
    """Checks the settings.

    Raises:
      UserError: no regular expression, or a negative rank.
    """
    for name, pattern in (("freeze", self.freeze), ("lora.on", self.on)):
      try:
        re.compile(pattern)
      except re.error as error:
        raise UserError(
          f"{name} is {pattern!r}, no regular expression: {error}."
        ) from None
    if self.rank < 0:
      raise UserError(f"lora.rank is {self.rank}; it must be 0 or above.")

  def split(self, params: dict, key: jax.Array) -> tuple[dict, dict]:
    """Parameters of a model -> (those to train, collections with the rest).

    Args:
      params: of the model.
      key: random key, for A.

    Raises:
      UserError: nothing is left to train.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    if self.rank:
      # Those of other places are no stacks, and have other axes.
      found = {
        path: w
        for path, w in flat.items()
        if path.startswith(BLOCKS) and re.search(self.on, path)
      }
      trained = {
        f"{LORA}/{path}/{name}": x
        for i, (path, w) in enumerate(sorted(found.items()))
        for name, x in _fresh(
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
    return nest(trained), {FROZEN: nest(frozen)} if frozen else {}

  def join(self, params: dict, collections: Mapping[str, Any]) -> dict:
    """Undoes `split`; what is frozen has no gradient."""
    frozen = jax.lax.stop_gradient(collections.get(FROZEN, {}))
    flat = flax.traverse_util.flatten_dict(frozen, sep="/")
    trained = dict(params)
    added = trained.pop(LORA, {})
    flat |= flax.traverse_util.flatten_dict(trained, sep="/")
    for path, ab in flax.traverse_util.flatten_dict(
      added, is_leaf=lambda _, x: "a" in x, sep="/"
    ).items():
      change = jnp.einsum("lir,lro->lio", ab["a"], ab["b"])
      scale = self.alpha / self.rank
      flat[path] = flat[path] + scale * change.reshape(flat[path].shape)
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _fresh(w: jax.Array, path: str, rank: int, key: jax.Array) -> dict:
  """A [layers, in, rank] and B [layers, rank, out] for a stack of kernels."""
  # [layers, heads, head_dim, out] alone has two axes of inputs.
  ends = 3 if path.endswith("/out/kernel") else 2
  inputs, outputs = math.prod(w.shape[1:ends]), math.prod(w.shape[ends:])
  a = jax.random.normal(key, (w.shape[0], inputs, rank)) * inputs**-0.5
  return {"a": a, "b": jnp.zeros((w.shape[0], rank, outputs))}
