"""Tokenizers that code the features of a network by k-means.

The codes of MusicLM's semantic tokenizer and of its joint embedding (arXiv
2301.11325) do not come out of training. They are fitted afterwards to the
features of the trained network: centres of k-means, or several levels of it
that each code the residual of the one before. `mmdcodec cluster` fits them.

Each dimension of the features is first standardised over the data set, never
over a clip, so that a frame's codes depend on its features alone:

  z = (features - mean) * scale
  codes = residual codes of z

A bundle holds these numbers in the collection "codebook": "mean" [dim], "scale"
[dim] and "embed" [levels, size, dim]. Without them the tokenizer has features
but no codes.
"""

import abc
import copy
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np

from mmdcodec import bounds, precision
from mmdcodec.bounds import mapping
from mmdcodec.errors import UserError
from mmdcodec.quantize import residual
from mmdcodec.tokenizers.interface import Tokenizer
from mmdcodec.tokenizers.loaded_codec import fingerprint, owned

CODEBOOK = "codebook"
# Rows that are coded at a time. Always as many, so that the codes of a row do
# not depend on the others: other shapes are other programs, which round
# differently.
_BLOCK = 512


class Clustered(Tokenizer):
  """A network whose features are coded by fitted codebooks.

  A subclass sets `kind`, `rate`, `channels`, `frame_rate` and perhaps `window`,
  and implements `features`. What it jits takes `self.variables` as an argument,
  so that `on` can move them.

  Attributes:
    config: content of the bundle's config.json, with `model`.
    variables: parameters, other collections of the network, and perhaps
      "codebook" (see the top of this file).
    hash: identifies settings, weights and codebooks.
    codebook_sizes: number of codes in each codebook; () if there are none yet.
    standardise: whether `mmdcodec cluster` standardises the features; False
      for embeddings on the unit sphere.
    usual_levels, usual_codes: what `mmdcodec cluster` fits by default.
  """

  standardise = True
  usual_levels, usual_codes = 1, 1024

  def __init__(
    self,
    config: dict[str, Any],
    variables: Mapping[str, Any],
    assets: Any = None,
  ) -> None:
    """Takes what a bundle holds.

    Args:
      config: see the attribute.
      variables: see the attribute.
      assets: other files of the bundle; ignored.

    Raises:
      UserError: the arrays of the codebook do not fit each other.
    """
    del assets
    self.config = config
    self.hash = fingerprint(config, dict(variables))
    self.variables = owned(dict(variables))
    self.codebook_sizes = ()
    if (found := variables.get(CODEBOOK)) is not None:
      levels, size, _ = _check_codebook(found)
      self.codebook_sizes = (size,) * levels
    self._codes = jax.jit(_codes)

  @abc.abstractmethod
  def features(self, x: np.ndarray, lengths: np.ndarray) -> tuple[Any, Any]:
    """Computes what the codebooks code.

    The features of a clip do not depend on the rest of the batch.

    Args:
      x: float32 [batch, samples, channels] from `prepare`: at the tokenizer's
        rate, and 0 where it is not valid.
      lengths: int32 [batch], valid samples of each item.

    Returns:
      (float32 [batch, frames, dim], bool [batch, frames]). The first
      `frames_of(n)` rows of an item with n samples are valid.
    """

  def encode(
    self, x: Any, rate: int | None = None, *, lengths: Any = None
  ) -> np.ndarray:
    """Turns audio into codes; see `Tokenizer.encode`.

    Codes are 0 where an item has no valid rows any more.

    Raises:
      UserError: there are no codebooks, x has another shape or is not finite,
        or the features are not finite.
    """
    self.check_codes_suffice()
    return self.codes_of(*self.features(*self.prepare(x, rate, lengths)))

  def prepare(
    self, x: Any, rate: int | None = None, lengths: Any = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Converts the arguments of `encode`; see `Tokenizer.prepare`.

    Samples that are not valid become 0.
    """
    x, lengths = super().prepare(x, rate, lengths)
    valid = np.arange(x.shape[1]) < lengths[:, None]
    return np.where(valid[..., None], x, np.float32(0)), lengths

  def codes_of(self, rows: Any, valid: Any) -> np.ndarray:
    """Codes features, as from `features` or from another tower.

    Args:
      rows: float32 [batch, frames, dim].
      valid: bool [batch, frames].

    Returns:
      int32 [batch, frames, codebooks], 0 where `valid` is False; only as many
      frames as the longest item has.

    Raises:
      UserError: there are no codebooks, they do not fit the features, or a
        valid row is not finite.
    """
    self.check_codes_suffice()
    rows, valid = np.asarray(rows, np.float32), np.asarray(valid, bool)
    dim = self.variables[CODEBOOK]["mean"].size
    if rows.shape[-1] != dim:
      raise UserError(
        f"the codebooks are for features of {dim} dimensions, but those of the"
        f" {self.kind} model have {rows.shape[-1]}: run `mmdcodec cluster`"
        " again."
      )
    flat = rows[valid]
    found = np.empty((len(flat), self.codebooks), np.int32)
    for start in range(0, len(flat), _BLOCK):
      block = flat[start : start + _BLOCK]
      padded = np.zeros((_BLOCK, flat.shape[1]), np.float32)
      padded[: len(block)] = block
      made = np.asarray(self._codes(self.variables[CODEBOOK], padded))
      found[start : start + len(block)] = made[: len(block)]
    if found.size and found.max() >= self.codebook_size:
      raise UserError(
        f"the features of the {self.kind} tokenizer are not finite for this"
        " audio, so it has no codes; use weights from an earlier step of the"
        " training."
      )
    codes = np.zeros((*valid.shape, self.codebooks), np.int32)
    codes[valid] = found
    return codes[:, : valid.sum(1).max(initial=0)]

  def check_codes_suffice(self) -> None:
    """Raises UserError if there are no codebooks."""
    if not self.codebook_sizes:
      raise UserError(
        f"the {self.kind} model has no codebooks yet, so it makes no codes; fit"
        " them with `mmdcodec cluster MODEL DATASET BUNDLE` and use the BUNDLE."
      )

  def with_codebooks(
    self, statistics: Mapping[str, Any], embed: Any
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (config, variables) of a bundle with new codebooks.

    Args:
      statistics: "mean" [dim] and "scale" [dim]; see the top of this file.
      embed: [levels, size, dim], codebooks of standardised features.

    Raises:
      UserError: the shapes do not fit each other, or a number is not finite.
    """
    arrays = {"mean": statistics["mean"], "scale": statistics["scale"]}
    arrays = {k: np.asarray(v, np.float32) for k, v in arrays.items()}
    arrays["embed"] = np.asarray(embed, np.float32)
    _check_codebook(arrays)
    variables = {**jax.device_get(self.variables), CODEBOOK: arrays}
    return copy.deepcopy(dict(self.config)), variables

  def on(self, device: jax.Device) -> Self:
    """Returns the same tokenizer with its weights on `device`."""
    other = copy.copy(self)
    other.variables = jax.device_put(self.variables, device)
    return other


@precision.exactly
def _codes(codebook: Mapping[str, jax.Array], rows: jax.Array) -> jax.Array:
  """Codes [rows, levels] of features [rows, dim]."""
  z = (rows - codebook["mean"]) * codebook["scale"]
  return residual.encode(z, codebook["embed"])[0].T


def _check_codebook(found: Any) -> tuple[int, int, int]:
  """Returns the shape of `embed`; raises UserError if the arrays don't fit."""
  bounds.check("the codebook", found, mapping())
  shapes = {name: np.shape(array) for name, array in found.items()}
  shape = shapes.get("embed", ())
  good = len(shape) == 3 and min(shape) > 0
  dim = shape[-1:]
  if not good or shapes != {"mean": dim, "scale": dim, "embed": shape}:
    raise UserError(
      f"the codebook has arrays of shapes {shapes}; expected mean [dim], scale"
      " [dim] and embed [levels, size, dim]: run `mmdcodec cluster` again."
    )
  if not all(np.isfinite(array).all() for array in found.values()):
    raise UserError(
      "the codebook holds values that are not finite: run `mmdcodec cluster`"
      " again."
    )
  return shape
