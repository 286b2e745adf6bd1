"""Music of any length, in windows of what a model was trained on.

A window knows the last frames of the one before and makes those after them.
What was made is never changed, so codes have no seam.
"""

import dataclasses
import functools

import numpy as np

from mmdcodec.models.token_lm import TokenLM
from mmdcodec.patterns import Pattern


@dataclasses.dataclass(frozen=True)
class Window:
  """A stretch of music that is decoded at once.

  Attributes:
    start: its first frame.
    end: the frame after its last.
  """

  start: int
  end: int


def windows(total: int, known: int, size: int, stride: int) -> list[Window]:
  """Stretches that cover all frames from `known` on.

  They begin at multiples of the stride, whatever is known: an item that begins
  with more than others of its batch is made in the windows of its own.

  Args:
    total: frames of the music.
    known: frames at the start that are given in every item.
    size: frames of a window, at most.
    stride: frames from the start of one to that of the next; below the size.

  Returns:
    Those in which something is to be made, in their order.
  """
  found, start = [], 0
  while True:
    end = min(start + size, total)
    if end > known:
      found.append(Window(start, end))
    if end == total:
      return found
    start += stride


@functools.lru_cache(64)
def pattern_of(model: TokenLM, frames: int) -> Pattern:
  """The model's pattern; of 30 s it takes some milliseconds to make."""
  return model.pattern_of(frames)


def given_tokens(
  pattern: Pattern, codes: np.ndarray, special: int, steps: int
) -> np.ndarray:
  """What is known of a window's tokens, as `decoding.DecodeRequest` has it.

  Args:
    pattern: of the window's frames.
    codes: int [batch, frames, codebooks], -1 where they are not known.
    special: token where the pattern has no code.
    steps: of the tokens, at least those of the pattern; the rest is special.

  Returns:
    int32 [batch, steps + 1, codebooks].
  """
  at, books = np.maximum(pattern.frame_of, 0), np.arange(pattern.codebooks)
  tokens = np.where(pattern.frame_of < 0, special, codes[:, at, books])
  short = steps + 1 - tokens.shape[1]
  tokens = np.pad(tokens, ((0, 0), (0, short), (0, 0)), constant_values=special)
  return tokens.astype(np.int32)


def first_unknown(given: np.ndarray) -> int:
  """The first step of which a token is to be sampled, in any item."""
  return int(np.argmax((given < 0).any(axis=(0, 2))))


def complete_frames(pattern: Pattern) -> np.ndarray:
  """Int [steps + 2]: how many frames are whole before each step."""
  last = np.maximum.accumulate(pattern.step_of.max(axis=1))
  return np.searchsorted(last, np.arange(len(pattern.steps) + 2), side="left")
