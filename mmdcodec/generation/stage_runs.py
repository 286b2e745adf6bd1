"""Runs a stage of a hierarchy over music of any length.

A stage sees no more than the length of its training clips. `WindowRun` makes
its codes window after window, each of which begins with the last codes of the
one before; `ChunkRun` makes them in chunks, many at a time, each of which makes
the last codes of the one before once more, and is joined to it where that is
seen least. Both work on demand, so that a stage can begin before the one above
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


def splice(before: np.ndarray, after: np.ndarray) -> int:
  """Finds where a change from some codes to others is seen least.

  Args:
    before: int [places, codebooks], the last codes before each place that the
      change may be at.
    after: int [places, codebooks], the first codes after it.

  Returns:
    The place with the fewest codebooks that change. Of several, the last one:
    there, both sides were made knowing the most codes before their own.
  """
  changes = (before != after).sum(axis=1)
  return len(changes) - 1 - int(np.argmin(changes[::-1]))


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
  """The codes of a batch, made by a stage in chunks, many at a time.

  A chunk knows nothing of the codes of the others. So that borders are seen
  less, each chunk after the first begins in the one before. Both draw the same
  noise in this overlap, and are given the same tokens of the stage above, but
  only sometimes do they come to the same codes. The music changes from one to
  the other at the frame where the fewest codebooks change, all of them at once
  (`splice`). Where the two never agree, the border stays (docs/RESULTS.md,
  "Seams"). A frame depends on no more than the two chunks that meet there.

  Attributes:
    total: frames of the music.
    stride: frames from the beginning of a chunk to that of the next one.
    plan: (window, its first frame that is not in the one before) of each chunk,
      from `windows.plan`.
    splices: int [batch, chunks - 1], the first frame of each chunk but the
      first that is in the music, once it is made.
  """

  def __init__(
    self,
    stage: Stage,
    codes: np.ndarray,
    keys: jax.Array,
    *,
    overlap: int,
    values: Callable[[float, float], Values],
    options: SamplingOptions,
    tell: Tell | None = None,
  ):
    """Prepares a run; nothing is made yet.

    Args:
      stage: the stage.
      codes: int32 [batch, frames, codebooks], -1 for those to make.
      keys: random keys [batch], the stage's own.
      overlap: frames of a chunk that the one before makes too; below the
        stage's own. They are more where chunks would not begin on its grid.
      values: start and end of a chunk in seconds -> values of the conditions,
        from the beginning of the music on.
      options: how to sample.
      tell: hears of progress.
    """
    self._stage, self._keys = stage, keys
    self._values, self._options, self._tell = values, options, tell
    self.total = codes.shape[1]
    self._size = min(stage.model.frames, self.total)
    self.stride = max(1, self._size - overlap)
    self.plan = windows.plan(
      self.total, self._size, self.stride, (), stage.model.grid
    )
    # All chunks are as long as the first: what is too much is cut off.
    missing = self.plan[-1][0].start + self._size - self.total
    self._given = np.pad(
      codes, ((0, 0), (0, missing), (0, 0)), constant_values=-1
    )
    # Of the last chunk that is made, to its end: the next one is compared.
    self._codes = self._given[:, : self.total].copy()
    ends = [new for _, new in self.plan[1:]]
    self.splices = np.tile(np.array(ends, int), (len(codes), 1))
    self._made, self._told = 0, 0

  def make(self, count: int | None = None) -> np.ndarray:
    """Makes the next chunks of all items.

    Args:
      count: how many chunks; None: all that are left.

    Returns:
      int32 [batch, frames, codebooks], the frames after those of the last call
      which no later chunk can change.
    """
    batch, left = len(self._codes), len(self.plan) - self._made
    first = self._made
    self._made += left if count is None else min(count, left)
    chunks = range(first, self._made)
    rows = [
      (chunk, item)
      for chunk in chunks
      for item in range(batch)
      if (self._given[item, self._frames(chunk)] < 0).any()
    ]
    # What is given counts as done.
    new = self._begin(chunks.stop) - self._begin(chunks.start)
    self._told += new * batch - sum(self._adds(chunk) for chunk, _ in rows)
    calls = max(1, -(-len(rows) // max(ROWS, batch)))
    # Calls of one size need one program; the last one repeats a row.
    each = -(-len(rows) // calls)
    for at in range(0, len(rows), each or 1):
      some = rows[at : at + each]
      made = self._sample([*some, *some[-1:] * (each - len(some))])
      for (chunk, item), codes in zip(some, made, strict=False):
        self._join(chunk, item, codes)
      if self._tell is not None:
        self._told += sum(self._adds(chunk) for chunk, _ in some)
        self._tell(self._told // batch, self.total)
    return self._codes[:, self._begin(chunks.start) : self._begin(chunks.stop)]

  def _frames(self, chunk: int) -> slice:
    """The frames of a chunk."""
    window, _ = self.plan[chunk]
    return slice(window.start, window.end)

  def _begin(self, chunk: int) -> int:
    """The first frame that the music can have from a chunk, or the total.

    Each chunk adds at least a frame, so that no more than two meet.
    """
    if not 0 < chunk < len(self.plan):
      return self.total if chunk else 0
    return max(self.plan[chunk][0].start, self.plan[chunk - 1][1] + 1)

  def _adds(self, chunk: int) -> int:
    """How many frames no later chunk can change once this one is made."""
    return self._begin(chunk + 1) - self._begin(chunk)

  def _join(self, chunk: int, item: int, made: np.ndarray) -> None:
    """Joins a chunk's codes [frames, codebooks] to those before it."""
    window, new = self.plan[chunk]
    start = window.start
    if chunk:
      start = self._begin(chunk)
      start += splice(
        self._codes[item, start - 1 : new],
        made[start - window.start : new + 1 - window.start],
      )
      self.splices[item, chunk - 1] = start
    self._codes[item, start : window.end] = made[
      start - window.start : window.end - window.start
    ]

  def _sample(self, rows: Sequence[tuple[int, int]]) -> np.ndarray:
    """Codes [rows, frames, codebooks] of whole chunks: (chunk, item)."""
    rate = self._stage.frame_rate
    starts = np.array([self.plan[chunk][0].start for chunk, _ in rows])
    values: dict[str, list[np.ndarray | None]] = {
      each.name: [] for each in self._stage.conditions
    }
    of_chunk = {
      chunk: self._values(
        self._frames(chunk).start / rate, self._frames(chunk).stop / rate
      )
      for chunk in {chunk for chunk, _ in rows}
    }
    for chunk, item in rows:
      for name, items in values.items():
        of_items = of_chunk[chunk].get(name)
        items.append(of_items[item] if of_items else None)
    # What other chunks have made by now is none of a chunk's business.
    codes = np.stack(
      [
        self._given[item, start : start + self._size]
        for start, (_, item) in zip(starts, rows, strict=True)
      ]
    )
    keys = self._keys[np.array([item for _, item in rows])]
    inputs = inputs_at(self._stage.conditions, values, [*(starts / rate)])
    sampler, window = self._stage.sampler, Window(0, self._size)
    *_, state = sampler.sample_window(
      sampler.start(codes, keys), window, inputs, self._options, places=starts
    )
    return state.codes
