"""A melody as a condition of a language model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.audio import files
from mmdcodec.audio import melody as melody_lib
from mmdcodec.audio.clip_list import clip_list
from mmdcodec.bounds import number, whole
from mmdcodec.errors import UserError
from mmdcodec.models.condition import (
  Arrays,
  Condition,
  dense,
  first,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Melody(Condition):
  """A melody, as the strongest pitch class over time; see `audio.melody`.

  MusicGen, arXiv 2306.05284, 3.1. Arrays: `classes` int [batch, frames]. As a
  prefix, a melody that ends early is repeated, and class 0 throughout is the
  empty melody. Or the vector of each frame is added to the music at the same
  time; class -1 then means that the melody has ended.

  Attributes:
    classes: pitch classes in an octave.
    frames: number of frames of a melody that the model sees.
    rate: Hz at which a melody is analysed.
    window: samples per frame of the analysis.
    hop: samples between frames of the analysis.
    frame_rate: Hz of frames that are added; those of a prefix have
      `rate / hop`.
    added_to: frames of music that each frame is added to, which is the ratio of
      their frame rates; 0 means that they are a prefix.
  """

  kind = "melody"

  cross: bool = False
  classes: Annotated[int, whole(1, 120)]
  frames: Annotated[int, whole(1, 1 << 16)]
  rate: Annotated[int, whole(1, 1_000_000)]
  window: Annotated[int, whole(1, 1 << 20)]
  hop: Annotated[int, whole(1, 1 << 20)]
  frame_rate: Annotated[float, number(0, 1e6)] = 0.0
  added_to: Annotated[int, whole(0, 1 << 16)] = 0

  @property
  def problem(self) -> str | None:
    """See the base class."""
    if self.added_to and not self.frame_rate:
      return "added_to needs a frame_rate, that of the frames that are added"
    return None

  @property
  def added(self) -> int:
    """See the base class."""
    return self.added_to

  def shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
    """See the base class."""
    return {"classes": ((self.frames,), jnp.int32)}

  def encode(
    self, module: nn.Module, arrays: Arrays
  ) -> tuple[jax.Array, jax.Array]:
    """See the base class."""
    given = arrays["given"][:, None]
    if self.added_to:
      # As large as the vector of a code.
      table = module.param(
        f"{self.name}_embedding",
        nn.initializers.normal(module.width**-0.5),
        (self.classes, module.width),
        jnp.float32,
      )
      mask = given & (arrays["classes"] >= 0)
      x = jnp.asarray(table)[jnp.maximum(arrays["classes"], 0)]
      return jnp.where(mask[..., None], x, 0), mask
    classes = jnp.where(given, arrays["classes"], 0)
    x = jax.nn.one_hot(classes, self.classes, dtype=jnp.float32)
    x = dense(module, f"{self.name}_projection")(x)
    return x, jnp.ones(x.shape[:2], bool)

  def in_training(self, data: Mapping[str, Any]) -> "Melody":
    """See the base class: data sets have melodies of one form only."""
    del data
    theirs = dict(
      rate=melody_lib.RATE,
      window=melody_lib.WINDOW,
      hop=melody_lib.HOP,
      classes=melody_lib.CLASSES,
    )
    ours = {name: getattr(self, name) for name in theirs}
    if ours != theirs:
      raise UserError(
        f"model.conditions.{self.name} has {ours}, but the melodies in token"
        f" data sets {theirs}."
      )
    return self

  @property
  def in_time(self) -> bool:
    """See the base class."""
    return True

  def read(self, record: Mapping[str, Any], start: float) -> Arrays:
    """See the base class.

    As a prefix, a melody that ends early restarts at `start`.
    """
    if self.added_to:
      return first(self.arrays([record["melody"]], start))
    rest = record["melody"][self._frame(start) :]
    return first(self.arrays([rest], 0.0))

  def check(self, value: Any, rate: int) -> list[Any]:
    """See the base class: audio in any form that `clip_list` accepts."""
    return [
      melody_lib.pitch_classes(
        files.resample(clip, rate=rate, to=self.rate),
        self.rate,
        window=self.window,
        hop=self.hop,
        classes=self.classes,
      )
      for clip in clip_list(value, self.name)
    ]

  def arrays(self, items: Sequence[np.ndarray | None], start: float) -> Arrays:
    """See the base class."""
    if self.added_to:
      # Analysis frames are centred on their times: the one nearest the middle.
      middle = start + (np.arange(self.frames) + 0.5) / self.frame_rate
      at = np.rint(middle * self.rate / self.hop).astype(int)
    else:
      at = self._frame(start) + np.arange(self.frames)
    classes = np.zeros((len(items), self.frames), np.int32)
    for row, melody in zip(classes, items, strict=True):
      if melody is not None:
        row[:] = melody[at % len(melody)]
        if self.added_to:
          row[at >= len(melody)] = -1
    given = np.array([melody is not None for melody in items])
    return {"classes": classes, "given": given}

  def _frame(self, seconds: float) -> int:
    return round(seconds * self.rate / self.hop)
