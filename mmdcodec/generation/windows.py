"""Divides music of any length into windows as long as the training clips.

A window starts with the last frames of the previous one and adds new frames.
Existing codes never change, so there are no seams in the codes.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from mmdcodec.models.token_lm import TokenLM
from mmdcodec.patterns import Pattern


@dataclasses.dataclass(frozen=True)
class Window:
  """A range of frames that is decoded at once.

  Attributes:
    start: first frame.
    end: frame after the last one.
  """

  start: int
  end: int


def windows(
  total: int, known: int, size: int, stride: int | None
) -> list[Window]:
  """Returns the windows that cover all frames from `known` on.

  They always begin at multiples of the stride, so an item's windows do not
  depend on the other items of its batch.

  Args:
    total: frames of the music.
    known: number of initial frames that are given in every item.
    size: maximum number of frames in a window.
    stride: frames from the start of one window to that of the next; below size.
      None makes a single window of all frames.

  Returns:
    The windows with new frames, in order.
  """
  if stride is None:
    return [Window(0, total)] if total > known else []
  found, start = [], 0
  while True:
    end = min(start + size, total)
    if end > known:
      found.append(Window(start, end))
    if end == total:
      return found
    start += stride


def plan(
  total: int,
  size: int,
  stride: int,
  borders: Sequence[int] = (),
  grid: int = 1,
) -> list[tuple[Window, int]]:
  """Returns windows that begin anew at borders.

  A window repeats at most size - stride frames of the one before, and ends at a
  border, so that all new frames of a window have the same conditions. Without
  borders these are the windows of `windows`.

  Args:
    total: frames of the music.
    size: maximum number of frames in a window.
    stride: new frames of a window after the first; at most size.
    borders: ascending frames, each above 0.
    grid: windows begin at its multiples, as training crops do
      (`TokenLM.grid`), and repeat so many frames more; except where one would
      have no new frames.

  Returns:
    (window, its first new frame) in order; the new frames cover all.
  """
  found, new = [], 0
  for border in [*(each for each in borders if each < total), total]:
    while new < border:
      start = max(0, new - (size - stride))
      if start - start % grid + size > new:
        start -= start % grid
      end = min(start + size, border)
      found.append((Window(start, end), new))
      new = end
  return found


@functools.lru_cache(64)
def pattern_of(model: TokenLM, frames: int) -> Pattern:
  """Caches the model's pattern; making one of 30 s takes milliseconds."""
  return model.pattern_of(frames)


def given_tokens(
  pattern: Pattern, codes: np.ndarray, special: int, steps: int
) -> np.ndarray:
  """Returns the known tokens of a window, for `decoding.DecodeRequest`.

  Args:
    pattern: pattern of the window's frames.
    codes: int [batch, frames, codebooks], -1 where unknown.
    special: token where the pattern has no code.
    steps: number of steps; those beyond the pattern are special.

  Returns:
    int32 [batch, steps + 1, codebooks].
  """
  at, books = np.maximum(pattern.frame_of, 0), np.arange(pattern.codebooks)
  tokens = np.where(pattern.frame_of < 0, special, codes[:, at, books])
  short = steps + 1 - tokens.shape[1]
  tokens = np.pad(tokens, ((0, 0), (0, short), (0, 0)), constant_values=special)
  return tokens.astype(np.int32)


def first_unknown(given: np.ndarray) -> int:
  """Returns the first step with a token to sample, in any item."""
  return int(np.argmax((given < 0).any(axis=(0, 2))))


def complete_frames(pattern: Pattern) -> np.ndarray:
  """Returns how many frames are complete before each step, int [steps + 2]."""
  last = np.maximum.accumulate(pattern.step_of.max(axis=1))
  return np.searchsorted(last, np.arange(len(pattern.steps) + 2), side="left")
