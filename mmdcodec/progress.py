"""Shows the progress of long work in a line on stderr."""

import sys
import time
from collections.abc import Callable

from mmdcodec import formatting


class ProgressLine:
  """Rewrites its line on a terminal; prints one every 15 s to a log.

  Attributes:
    start: `time.monotonic()` when the work began.
  """

  def __init__(self) -> None:
    self.start = time.monotonic()
    self._live = sys.stderr.isatty()
    self._every = 0.5 if self._live else 15.0
    self._next = self.start + self._every
    self._shown = False

  @property
  def spent(self) -> float:
    """Seconds since the work began, always above 0."""
    return max(time.monotonic() - self.start, 1e-9)

  def due(self, *, last: bool = False) -> bool:
    """Returns whether it is time to show a line.

    Args:
      last: whether the work is done. A line is then due only if one was shown
        before, so that short work shows none.
    """
    return time.monotonic() >= self._next or (last and self._shown)

  def show(self, line: str, *, last: bool = False) -> None:
    """Shows a line, whether due or not.

    Args:
      line: text without a newline.
      last: whether to keep the line on a terminal and end it.
    """
    self._next = time.monotonic() + self._every
    self._shown = True
    begin, end = (
      ("\r\x1b[K", "\n" if last else "") if self._live else ("", "\n")
    )
    print(begin + line, end=end, file=sys.stderr, flush=True)


def counter(things: str) -> Callable[[int, int], None]:
  """Returns a function (done, total) that shows speed and time left.

  Args:
    things: plural of the unit, such as "songs".
  """
  line = ProgressLine()
  first: int | None = None

  def show(done: int, total: int) -> None:
    nonlocal first
    if first is None:
      first = done  # an earlier run did these
    last = done == total
    if not line.due(last=last):
      return
    speed = (done - first) / line.spent
    words = f"  {done}/{total} {things}"
    if speed >= 0.05:
      words += f", {speed:.1f} a second"
    if speed:
      words += f", {formatting.duration((total - done) / speed)} left"
    line.show(words, last=last)

  return show
