"""Runs a stage of a hierarchy over music of any length.

A stage sees no more than the length of its training clips. `WindowRun` makes
its codes window after window, each of which begins with the last codes of the
one before; `ChunkRun` makes them in chunks, many at a time, none of which knows
the others. Both work on demand, so that a stage can begin before the one above
has ended.

Random numbers depend on the item's key and on the place in the music, and the
codes of a window or chunk on nothing but what it is given. So it makes no
difference how many are made at a time, or when.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmdcodec.generation import windows
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
    plan: (window, its first new frame) of each window.
  """

  def __init__(
    self,
    stage: Stage | None,
    codes: np.ndarray,
    keys: jax.Array,
    *,
    plan: Sequence[tuple[Window, int]],
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
      plan: from `windows.plan`.
      values: window and its first new frame -> values of the conditions.
      options: how to sample.
      part: frames that are made at a time; None: whole windows.
      tell: hears of progress.
    """
    self._stage, self.plan = stage, plan
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
    for window, new in self.plan:
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
  """The codes of a batch, made by a stage in chunks, many at a time.

  A chunk knows nothing of the codes of the others, so at borders codes change
  more than elsewhere (docs/RESULTS.md, "Seams").

  Attributes:
    total: frames of the music.
    plan: (window, its first frame) of each chunk.
  """

  def __init__(
    self,
    stage: Stage,
    codes: np.ndarray,
    keys: jax.Array,
    *,
    values: Callable[[Window, int], Values],
    options: SamplingOptions,
    tell: Tell | None = None,
  ):
    """Prepares a run; nothing is made yet.

    Args:
      stage: the stage.
      codes: int32 [batch, frames, codebooks], -1 for those to make.
      keys: random keys [batch], the stage's own.
      values: chunk and its first frame -> values of the conditions.
      options: how to sample.
      tell: hears of progress.
    """
    self._stage, self._keys = stage, keys
    self._values, self._options, self._tell = values, options, tell
    self.total = codes.shape[1]
    self._size = min(stage.model.frames, self.total)
    self.plan = windows.plan(self.total, self._size, self._size)
    # All chunks are as long as the first: what is too much is cut off.
    missing = len(self.plan) * self._size - self.total
    self._codes = np.pad(
      codes, ((0, 0), (0, missing), (0, 0)), constant_values=-1
    )
    self._done = 0

  def until(self, frame: int) -> np.ndarray:
    """Makes the chunks up to a frame, or the end; see `WindowRun.until`."""
    end, batch = min(frame, self.total), len(self._codes)
    chunks = [each for each, _ in self.plan if self._done <= each.start < end]
    if chunks:
      self._done = chunks[-1].end
    rows = [
      (chunk, item)
      for chunk in chunks
      for item in range(batch)
      if (self._codes[item, chunk.start : chunk.end] < 0).any()
    ]
    left = sum(chunk.end - chunk.start for chunk, _ in rows)
    calls = max(1, -(-len(rows) // max(ROWS, batch)))
    # Calls of one size need one program; the last one repeats a row.
    each = -(-len(rows) // calls)
    for at in range(0, len(rows), each or 1):
      some = rows[at : at + each]
      made = self._sample([*some, *some[-1:] * (each - len(some))])
      for (chunk, item), codes in zip(some, made, strict=False):
        self._codes[item, chunk.start : chunk.start + self._size] = codes
      if self._tell is not None:
        # What is given counts as done.
        left -= sum(chunk.end - chunk.start for chunk, _ in some)
        self._tell(self._done - -(-left // batch), self.total)
    return self._codes[:, : self._done]

  def _sample(self, rows: Sequence[tuple[Window, int]]) -> np.ndarray:
    """Codes [rows, frames, codebooks] of whole chunks: (chunk, item)."""
    rate, size = self._stage.frame_rate, self._size
    of_chunk = {
      chunk: self._values(chunk, chunk.start)
      for chunk in dict.fromkeys(chunk for chunk, _ in rows)
    }
    values: dict[str, list[np.ndarray | None]] = {
      each.name: [] for each in self._stage.conditions
    }
    for chunk, item in rows:
      for name, items in values.items():
        of_items = of_chunk[chunk].get(name)
        items.append(of_items[item] if of_items else None)
    starts = np.array([chunk.start for chunk, _ in rows])
    codes = np.stack(
      [self._codes[i, chunk.start : chunk.start + size] for chunk, i in rows]
    )
    keys = jax.vmap(jax.random.fold_in)(
      self._keys[np.array([item for _, item in rows])], starts
    )
    inputs = inputs_at(self._stage.conditions, values, [*(starts / rate)])
    sampler = self._stage.sampler
    *_, state = sampler.sample_window(
      sampler.start(codes, keys), Window(0, size), inputs, self._options
    )
    return state.codes
