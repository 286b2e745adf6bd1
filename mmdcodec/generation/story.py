"""Prompts that change with time: MusicLM's story mode.

A story is a list of (second, prompt), such as [(0, "calm piano"), (15, "with
drums")]: each prompt holds from its second on (MusicLM, Agostinelli et al.
2023, arXiv 2301.11325, 4.4). In a file every line is a time and a prompt:

  0 calm piano
  0:15 with drums
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Self

from mmdcodec.errors import UserError

_FORM = 'lines such as "0:15 calm piano", a time and a prompt'
_LINE = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)\s+(.*\S)")


@dataclasses.dataclass(frozen=True)
class Story:
  """Values that change with time.

  Attributes:
    times: seconds from which each of them holds; ascending from 0.
    values: what holds, for example one prompt for each item.
  """

  times: tuple[float, ...]
  values: tuple[Any, ...]

  @classmethod
  def of(cls, value: Any) -> Self:
    """A story of one value."""
    return cls((0.0,), (value,))

  def at(self, seconds: float) -> Any:
    """Returns what holds at a time."""
    found = sum(time <= seconds for time in self.times)
    return self.values[max(0, found - 1)]

  def map(self, change: Callable[[Any], Any]) -> "Story":
    """Returns a story with each value changed."""
    return Story(self.times, tuple(map(change, self.values)))


def check_story(story: Any, seconds: float) -> Story:
  """Checks a story from a user.

  Args:
    story: [(second, prompt), ...]; a prompt may also be a list with one for
      each item.
    seconds: length of the music.

  Raises:
    UserError: it has another form, begins after 0, falls back in time, or goes
      on after the music has ended.
  """
  good = isinstance(story, list | tuple) and story
  for each in story if good else ():
    pair = isinstance(each, list | tuple) and len(each) == 2
    good = good and pair and _is_number(each[0])
  if not good:
    raise UserError(
      f"story is {story!r:.80}; it must be a list of at least one (second,"
      ' prompt), such as [(0, "calm piano"), (15, "with drums")].'
    )
  times = tuple(float(second) for second, _ in story)
  if times[0] != 0:
    raise UserError(
      f"the story begins at {times[0]:g} s; its first prompt must hold from 0 s"
      " on."
    )
  for before, after in zip(times, times[1:], strict=False):
    if not after > before:
      raise UserError(
        f"the story goes from {before:g} s to {after:g} s; its times must"
        " ascend."
      )
  if times[-1] >= seconds:
    raise UserError(
      f"the story has a prompt at {times[-1]:g} s, but the music is over after"
      f" {seconds:g} s; ask for more seconds."
    )
  return Story(times, tuple(prompt for _, prompt in story))


def _is_number(value: Any) -> bool:
  try:
    return not isinstance(value, str | bool) and math.isfinite(value)
  except TypeError:
    return False


def read_story(text: str, name: str) -> list[tuple[float, str]]:
  """Reads the contents of a story file; empty lines are passed over.

  Args:
    text: lines of a time (seconds, minutes:seconds or hours:minutes:seconds)
      and a prompt.
    name: name of the file, for errors.

  Returns:
    [(second, prompt), ...] for `check_story`.

  Raises:
    UserError: a line has another form, or there is none.
  """
  found: list[tuple[float, str]] = []
  for number, line in enumerate(text.splitlines(), 1):
    if not line.strip():
      continue
    match = _LINE.fullmatch(line.strip())
    if match is None:
      raise UserError(
        f"{name}, line {number}: {line.strip()[:60]!r} is not a time and a"
        f" prompt; a story has {_FORM}."
      )
    hours, minutes, seconds, prompt = match.groups()
    time = 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds)
    found.append((time, prompt))
  if not found:
    raise UserError(f"{name} is empty; a story has {_FORM}.")
  return found


def borders(story: Story, frame_rate: float) -> Sequence[int]:
  """Returns the frames at which a story changes, without the first."""
  return [max(1, round(time * frame_rate)) for time in story.times[1:]]
