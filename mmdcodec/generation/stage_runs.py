"""Runs a stage of a hierarchy over music of any length.

A stage sees no more than the length of its training clips. `WindowRun` makes
its codes window after window, each of which begins with the last codes of the
one before; `ChunkRun` makes them in chunks that do not overlap, many at a time.
Both work on demand, so that a stage can begin before the one above has ended.

The random key of an item is folded with the place of its window or chunk, and
the codes of one depend on nothing but what they are given. So it makes no
difference how many are made at a time, or when.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.generation.stage import Stage
from mmdcodec.generation.token_sampler import SamplerState
from mmdcodec.generation.windows import Window
from mmdcodec.models.condition import Condition
from mmdcodec.models.conditioning import Inputs
from mmdcodec.models.token_conditions import Tokens

# Values of the conditions of a batch: name -> for each item tokens [frames,
# codebooks] or pitch classes [frames] from the beginning of the music on, or
# None.
Values = Mapping[str, Sequence[np.ndarray | None]]
# Called with (frames done, total).
Tell = Callable[[int, int], None]

# Chunks that are made at a time, if the batch is not larger.
ROWS = 16
# Conditions whose rows overlap: a window has those that begin nearest.
_OVERLAPPING = ("melody",)
# Frame rates are not exact in binary.
_EPSILON = 1e-6


def frames_at(seconds: float, frame_rate: float) -> int:
  """Returns how many frames begin before a time."""
  return math.ceil(seconds * frame_rate - _EPSILON)


def inputs_at(
  conditions: Sequence[Condition], values: Values, starts: Sequence[float]
) -> Inputs:
  """The inputs of windows that begin at any times.

  Args:
    conditions: conditions of a stage, of kinds "tokens" and "melody".
    values: their tokens; a condition may be missing. More codebooks than it has
      are left out. Where an item's tokens have ended, as those of a short
      melody, it is without the condition.
    starts: seconds at which each item's window begins.
  """

  def seen(condition: Any, tokens: np.ndarray | None, start: float) -> Any:
    if tokens is None:
      return None
    at = math.floor(start * condition.frame_rate + _EPSILON)
    if condition.name in _OVERLAPPING:
      at = round(start * condition.frame_rate)
    part = tokens[at : at + condition.frames, : condition.codebooks]
    return part if len(part) else None

  found = {}
  for each in conditions:
    of_items = values.get(each.name) or [None] * len(starts)
    if not isinstance(each, Tokens):
      rows = [
        each.arrays([item], start)
        for item, start in zip(of_items, starts, strict=True)
      ]
      found[each.name] = {
        name: np.concatenate([row[name] for row in rows]) for name in rows[0]
      }
      continue
    items = [
      seen(each, tokens, start)
      for tokens, start in zip(of_items, starts, strict=True)
    ]
    found[each.name] = each.arrays(items, 0.0)
  return found


class WindowRun:
  """The codes of a batch, made by a stage window after window.

  Attributes:
    total: frames of the music.
  """

  def __init__(
    self,
    stage: Stage | None,
    codes: np.ndarray,
    keys: jax.Array,
    *,
    windows: Sequence[tuple[Window, int]],
    values: Callable[[Window, int], Values],
    options: SamplingOptions,
    part: int | None = None,
    tell: Tell | None = None,
  ):
    """Prepares a run; nothing is made yet.

    Args:
      stage: the stage; None if there is nothing to make.
      codes: int32 [batch, frames, codebooks], -1 for those to make.
      keys: random keys [batch], the stage's own.
      windows: from `windows.plan`.
      values: window and its first new frame -> values of the conditions.
      options: how to sample.
      part: frames that are made at a time; None: whole windows.
      tell: hears of progress.
    """
    self._stage, self._windows = stage, windows
    self._values, self._options = values, options
    self._part, self._tell = part, tell
    self.total = codes.shape[1]
    self._state = SamplerState(codes, keys, self.total)
    if stage is not None:
      self._state = stage.sampler.start(codes, keys)
    self._states = self._sample()

  def until(self, frame: int) -> np.ndarray:
    """Makes codes up to a frame, or the end.

    Returns:
      int32 [batch, frames, codebooks], all that are made; at least `frame` of
      them unless the music is shorter.
    """
    while self._state.done < min(frame, self.total):
      self._state = next(self._states)
      if self._tell is not None:
        self._tell(self._state.done, self.total)
    return self._state.codes[:, : self._state.done]

  def _sample(self) -> Iterator[SamplerState]:
    """Yields states, window after window."""
    for window, new in self._windows:
      # Windows do not depend on what is given, see `windows.windows`.
      if self._stage is None or window.end <= self._state.done:
        continue
      values = self._values(window, new)
      start = window.start / self._stage.frame_rate
      starts = [start] * len(self._state.codes)
      yield from self._stage.sampler.sample_window(
        self._state,
        window,
        inputs_at(self._stage.conditions, values, starts),
        self._options,
        self._part,
      )


class ChunkRun:
  """The codes of a batch, made by a stage in chunks that do not overlap.

  Attributes:
    total: frames of the music.
    size: frames of a chunk.
    count: number of chunks.
  """

  def __init__(
    self,
    stage: Stage,
    codes: np.ndarray,
    keys: jax.Array,
    *,
    values: Callable[[float, float], Values],
    options: SamplingOptions,
    tell: Tell | None = None,
  ):
    """Prepares a run; nothing is made yet.

    Args:
      stage: the stage.
      codes: int32 [batch, frames, codebooks], -1 for those to make.
      keys: random keys [batch], the stage's own.
      values: start and end of a chunk in seconds -> values of the conditions.
      options: how to sample.
      tell: hears of progress.
    """
    self._stage, self._keys = stage, keys
    self._values, self._options, self._tell = values, options, tell
    self.total = codes.shape[1]
    self.size = min(stage.model.frames, self.total)
    self.count = -(-self.total // self.size)
    # All chunks are as long as the first: what is too much is cut off.
    missing = self.count * self.size - self.total
    self._codes = np.pad(
      codes, ((0, 0), (0, missing), (0, 0)), constant_values=-1
    )
    self._told = 0

  def end_of(self, chunk: int) -> int:
    """Returns the frame after the last one of a chunk."""
    return min((chunk + 1) * self.size, self.total)

  def make(self, chunks: range) -> np.ndarray:
    """Makes adjacent chunks of all items.

    Returns:
      int32 [batch, frames, codebooks], the frames of these chunks.
    """
    batch = len(self._codes)
    rows = [
      (chunk, item)
      for chunk in chunks
      for item in range(batch)
      if (self._part(item, chunk)[: self._valid(chunk)] < 0).any()
    ]
    # What is given counts as done.
    self._told += (len(chunks) * batch - len(rows)) * self.size
    calls = max(1, -(-len(rows) // max(ROWS, batch)))
    # Calls of one size need one program; the last one repeats a row.
    each = -(-len(rows) // calls)
    for at in range(0, len(rows), each or 1):
      some = rows[at : at + each]
      made = self._sample([*some, *some[-1:] * (each - len(some))])
      for (chunk, item), codes in zip(some, made, strict=False):
        self._part(item, chunk)[:] = codes
      if self._tell is not None:
        self._told += len(some) * self.size
        done = round(self._told / batch)
        self._tell(min(done, self.total), self.total)
    start, end = chunks.start * self.size, self.end_of(chunks.stop - 1)
    return self._codes[:, start:end]

  def _part(self, item: int, chunk: int) -> np.ndarray:
    """A view of one chunk [frames, codebooks]."""
    return self._codes[item, chunk * self.size : (chunk + 1) * self.size]

  def _valid(self, chunk: int) -> int:
    return self.end_of(chunk) - chunk * self.size

  def _sample(self, rows: Sequence[tuple[int, int]]) -> np.ndarray:
    """Codes [rows, frames, codebooks] of (chunk, item)."""
    rate = self._stage.frame_rate
    starts = [chunk * self.size / rate for chunk, _ in rows]
    values: dict[str, list[np.ndarray | None]] = {
      each.name: [] for each in self._stage.conditions
    }
    of_chunk = {
      chunk: self._values(chunk * self.size / rate, self.end_of(chunk) / rate)
      for chunk in {chunk for chunk, _ in rows}
    }
    for chunk, item in rows:
      for name, items in values.items():
        of_items = of_chunk[chunk].get(name)
        items.append(of_items[item] if of_items else None)
    codes = np.stack([self._part(item, chunk) for chunk, item in rows])
    keys = jnp.stack(
      [
        jax.random.fold_in(self._keys[item], chunk * self.size)
        for chunk, item in rows
      ]
    )
    inputs = inputs_at(self._stage.conditions, values, starts)
    sampler, window = self._stage.sampler, Window(0, self.size)
    *_, state = sampler.sample_window(
      sampler.start(codes, keys), window, inputs, self._options
    )
    return state.codes
