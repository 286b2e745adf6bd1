"""A language model without codec: one stage of a hierarchy such as MusicLM's.

MusicLM (Agostinelli et al. 2023, arXiv 2301.11325, 3.2) makes music in stages,
each of which turns the tokens of some tokenizers into those of another. A stage
is a `TokenLM` that knows the tokenizers of its target and of its conditions by
their hashes. `TokenSampler` samples its codes; what they mean is up to the
hierarchy that it becomes a part of.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.generation.token_sampler import TokenSampler
from mmdcodec.models import token_lm
from mmdcodec.quantize import repeats
from mmdcodec.store import renamed


class Stage:
  """A language model over the tokens of one tokenizer, given those of others.

  Attributes:
    config: content of the bundle's config.json.
    variables: `{"params": ...}` as in the bundle.
    model: the language model, a Linen module.
    conditions: the model's conditions, which check and encode input.
    sampler: the `TokenSampler`.
    target: `tokenizer`, `hash` and `frame_rate` of the codes that it makes;
      `token_rate`, frames that are left in a second, if it makes them without
      repeats.
    streams: `tokenizer` and `hash` of the codes of each condition, by its name;
      a condition that training never saw is missing, and so are pitch classes,
      which have no tokenizer.
    frame_rate: frames of codes that it makes for a second: the tokenizer's, or
      `token_rate`.
    seconds: length of the training clips.
  """

  kind = "stage"

  def __init__(
    self,
    config: dict[str, Any],
    variables: dict[str, Any],
    assets: Mapping[str, bytes] | None = None,
  ):
    """Takes what a bundle of kind "stage" holds.

    Args:
      config: `model` holds the fields of `TokenLM`; `target` and `streams` see
        above.
      variables: `{"params": ...}`.
      assets: other files of the bundle, by name.

    Raises:
      UserError: a field is unknown or out of its bounds.
    """
    fields = renamed.update_lm(config["model"])
    self.config = {**config, "model": fields}
    self.variables = variables
    model = token_lm.from_config(fields)
    self.target = dict(config["target"])
    self.streams = dict(config.get("streams", {}))
    self.frame_rate = float(self.target["frame_rate"])
    self.seconds = model.frames / self.frame_rate
    if model.collapse:
      # Clips of training were as long, but had fewer frames.
      self.frame_rate = float(self.target["token_rate"])
      frames = max(2, round(self.seconds * self.frame_rate))
      model = dataclasses.replace(model, frames=frames)
    self.model = model
    self.conditions = model.make_conditions(assets)
    self.sampler = TokenSampler(self.model, variables["params"])

  def place(self, mesh: jax.sharding.Mesh) -> None:
    """Shards the model over a mesh; see `LoadedMusic.place`."""
    self.sampler.place(self.variables["params"], mesh)

  def takes(self, condition: str) -> bool:
    """Returns whether the model has this condition, such as "joint"."""
    return any(each.name == condition for each in self.conditions)

  def from_frames(
    self, codes: np.ndarray, lengths: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Turns codes of the tokenizer into those that the stage makes.

    Args:
      codes: int32 [batch, frames, codebooks], as the tokenizer encodes audio.
      lengths: int [batch], valid frames of each item.

    Returns:
      (int32 [batch, frames, codebooks], int32 [batch], valid frames); the same
      unless the stage makes codes without repeats.
    """
    if not self.model.collapse:
      return codes, lengths
    found = repeats.collapse_repeats(jnp.asarray(codes), jnp.asarray(lengths))
    return np.asarray(found[0]), np.asarray(found[1])

  def to_frames(self, codes: np.ndarray) -> np.ndarray:
    """Turns codes that the stage makes into frames of the tokenizer.

    Codes without repeats get equal durations; the true ones are lost. The
    frames of the first codes do not depend on those after them.

    Args:
      codes: int32 [batch, frames, codebooks], at `frame_rate`.

    Returns:
      int32 [batch, frames, codebooks], at the tokenizer's frame rate.
    """
    if not self.model.collapse:
      return codes
    return repeats.stretch(codes, self.target["frame_rate"] / self.frame_rate)
