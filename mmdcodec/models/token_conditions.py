"""Tokens and embeddings of other models as conditions of a language model."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.bounds import flag, number, whole
from mmdcodec.errors import UserError
from mmdcodec.models.condition import (
  Arrays,
  Condition,
  dense,
  first,
)
from mmdcodec.nn.conv import length_mask
from mmdcodec.parallel import rules
from mmdcodec.quantize.repeats import collapse_repeats
from mmdcodec.quantize.residual import MOST_CODEBOOKS, MOST_CODES

# Tokens of one piece.
MOST_TOKENS = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens(Condition):
  """Tokens of the same music from another tokenizer.

  For example the 12 tokens of a joint music-text embedding, or the semantic or
  coarse acoustic tokens of MusicLM (Agostinelli et al. 2023, arXiv 2301.11325,
  3.2). Each token becomes a vector; those of a frame are adjacent. Or the
  vectors of a frame are summed, and added to the music at the same time
  (SoundStorm, Borsos et al. 2023, arXiv 2305.09636, 3.1): no attention has to
  find which tokens belong to a step, and the sequence is shorter.
  Arrays: `tokens` int [batch, frames, codebooks] and `lengths` [batch], the
  frames that are not padding.

  Attributes:
    codebooks: tokens per frame.
    size: codes per codebook.
    frames: number of frames that the model sees.
    frame_rate: Hz; 0 means that the tokens describe a whole piece.
    collapse: the model sees one of each run of equal frames, and so not how
      long it lasts; see `quantize.repeats`.
    added_to: frames of music that each frame of tokens is added to, which is
      the ratio of their frame rates; 0 means that it is not added.
  """

  kind = "tokens"

  codebooks: Annotated[int, whole(1, MOST_CODEBOOKS)] = 1
  size: Annotated[int, whole(1, MOST_CODES)]
  frames: Annotated[int, whole(1, 1 << 20)] = 1
  frame_rate: Annotated[float, number(0, 1e6)] = 0.0
  collapse: Annotated[bool, flag()] = False
  added_to: Annotated[int, whole(0, 1 << 16)] = 0

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if self.added_to and not self.frame_rate:
      return "added_to needs a frame_rate: the tokens describe a whole piece"
    if self.added_to and self.collapse:
      return "added_to and collapse exclude each other: set one of them"
    if (count := self.frames * self.codebooks) > MOST_TOKENS:
      return f"its {count} tokens are more than {MOST_TOKENS}"
    return None

  @property
  def in_time(self) -> bool:
    """See the base class."""
    return self.frame_rate > 0

  @property
  def added(self) -> int:
    """See the base class."""
    return self.added_to

  def shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
    """See the base class."""
    return {
      "tokens": ((self.frames, self.codebooks), jnp.int32),
      "lengths": ((), jnp.int32),
    }

  def nothing(self, batch: int) -> Arrays:
    """See the base class; its vectors are 0, but may be attended to."""
    return self.arrays([None] * batch, 0.0)

  def encode(
    self, module: nn.Module, arrays: Arrays
  ) -> tuple[jax.Array, jax.Array]:
    """See the base class."""
    # The sum that is added to a step is as large as the vector of a code.
    size = (self.codebooks * module.width) ** -0.5 if self.added_to else 1.0
    table = module.param(
      f"{self.name}_embedding",
      nn.initializers.normal(size),
      (self.codebooks, self.size, module.width),
      jnp.float32,
    )
    tokens, lengths = arrays["tokens"], arrays["lengths"]
    if self.collapse:
      tokens, lengths = collapse_repeats(tokens, lengths)
    # Parameters may be NumPy arrays, which traced values cannot index.
    x = jnp.asarray(table)[np.arange(self.codebooks), tokens]
    # Tables are divided along the width, activations along the batch.
    x = rules.constrain(x, "batch", None, None, None)
    mask = length_mask(lengths, self.frames)
    # Padding too: if nothing else is there, attention takes the mean of it.
    heard = mask & arrays["given"][:, None]
    x = jnp.where(heard[..., None, None], x, 0)
    if self.added_to:
      return x.sum(axis=2), mask
    return (
      x.reshape(len(x), -1, module.width),
      jnp.repeat(mask, self.codebooks, axis=1),
    )

  def read(self, record: Mapping[str, Any], start: float) -> Arrays:
    """See the base class: the stream with its name, from the crop's start on.

    Of a stream with more codebooks, the first ones. If rows overlap, those that
    begin nearest the crop's start; or, of tokens that describe a whole piece,
    those that describe its middle. If there is no such stream, the condition is
    absent.
    """
    streams = record.get("streams", {})
    if self.name not in streams:
      return first(self.nothing(1))
    tokens, frame_rate = streams[self.name]
    window = record.get("windows", {}).get(self.name)
    had, tokens = tokens.shape[1], tokens[:, : self.codebooks]
    if had < self.codebooks or tokens.max(initial=0) >= self.size:
      raise UserError(
        f"the condition {self.name!r} takes {self.codebooks} x {self.size}"
        f" tokens; the data set has {had} x {tokens.max(initial=0) + 1} or"
        " more."
      )
    if self.frame_rate:
      if not math.isclose(self.frame_rate, frame_rate):
        raise UserError(
          f"the condition {self.name!r} has a frame_rate of {self.frame_rate}"
          f" Hz; the data set has {frame_rate} Hz."
        )
      if window is not None:
        at = min(round(start * frame_rate), len(tokens) - 1)
        return first(self.arrays([tokens[at:]], 0.0))
      return first(self.arrays([tokens], start))
    at = _frame(start, frame_rate)
    if window is not None:
      middle = start + record.get("seconds", window) / 2
      at = round((middle - window / 2) * frame_rate - (self.frames - 1) / 2)
    # Near the ends of the record, take its first or last frames.
    at = max(0, min(at, len(tokens) - self.frames))
    return first(self.arrays([tokens[at:]], 0.0))

  def check(self, value: Any, rate: int) -> list[Any]:
    """See the base class: whole numbers [batch, frames, codebooks].

    Also [batch, tokens], if a frame has one token or there is one frame.
    """
    del rate
    tokens = np.asarray(value)
    if tokens.ndim == 2 and 1 in (self.codebooks, self.frames):
      axis = 2 if self.codebooks == 1 else 1
      tokens = np.expand_dims(tokens, axis)
    if (
      tokens.ndim != 3
      or not tokens.size
      or tokens.shape[2] != self.codebooks
      or (not self.frame_rate and tokens.shape[1] > self.frames)
      or not np.issubdtype(tokens.dtype, np.integer)
      or tokens.min() < 0
      or tokens.max() >= self.size
    ):
      shape = f"[batch, frames, {self.codebooks}]"
      if not self.frame_rate:
        shape = f"[batch, {self.frames}, {self.codebooks}]"
      if 1 in (self.codebooks, self.frames):
        count = "frames" if self.codebooks == 1 else self.codebooks
        shape = f"[batch, {count}]"
      raise UserError(
        f"{self.name} tokens must be whole numbers {shape} below {self.size}."
      )
    return list(tokens.astype(np.int32))

  def arrays(self, items: Sequence[np.ndarray | None], start: float) -> Arrays:
    """See the base class; frames after the last are padding."""
    at = _frame(start, self.frame_rate)
    shape = (len(items), self.frames, self.codebooks)
    tokens = np.zeros(shape, np.int32)
    lengths = np.full(len(items), self.frames, np.int32)
    for i, item in enumerate(items):
      if item is not None:
        part = item[at : at + self.frames]
        tokens[i, : len(part)], lengths[i] = part, len(part)
    given = np.array([item is not None for item in items])
    return {"tokens": tokens, "lengths": lengths, "given": given}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding(Condition):
  """One vector per piece, such as a joint music-text embedding.

  Arrays: `vector` float32 [batch, size].

  Attributes:
    size: length of the vector.
  """

  kind = "embedding"

  size: Annotated[int, whole(1, 1 << 16)]

  def shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
    """See the base class."""
    return {"vector": ((self.size,), jnp.float32)}

  def encode(
    self, module: nn.Module, arrays: Arrays
  ) -> tuple[jax.Array, jax.Array]:
    """See the base class."""
    x = dense(module, f"{self.name}_projection")(arrays["vector"])
    x = jnp.where(arrays["given"][:, None], x, 0)[:, None]
    return x, jnp.ones(x.shape[:2], bool)

  def read(self, record: Mapping[str, Any], start: float) -> Arrays:
    """See the base class: the record's entry with its name, if any."""
    return first(self.arrays([record.get(self.name)], start))

  def check(self, value: Any, rate: int) -> list[Any]:
    """See the base class: finite numbers [batch, size]."""
    del rate
    vectors = np.asarray(value, np.float32)
    if (
      vectors.ndim != 2
      or not vectors.size
      or vectors.shape[1] != self.size
      or not np.isfinite(vectors).all()
    ):
      raise UserError(
        f"{self.name} must be finite numbers [batch, {self.size}], not"
        f" {vectors.shape}."
      )
    return list(vectors)

  def arrays(self, items: Sequence[np.ndarray | None], start: float) -> Arrays:
    """See the base class."""
    del start
    vectors = np.zeros((len(items), self.size), np.float32)
    for row, vector in zip(vectors, items, strict=True):
      if vector is not None:
        row[:] = vector
    given = np.array([vector is not None for vector in items])
    return {"vector": vectors, "given": given}


def _frame(seconds: float, frame_rate: float) -> int:
  """Index of the frame at a time; frame rates are not exact in binary."""
  return math.floor(seconds * frame_rate + 1e-6)
