"""Where the wall-clock time of a run went, over all its starts.

WORKDIR/goodput.json holds seconds by kind. What a crash cost is known at the
next start: steps after the checkpoint that it goes on from are done again, and
nothing was done since the file was last written.
"""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

from mmdcodec import bounds, formatting
from mmdcodec.errors import Notice, UserError
from mmdcodec.store import atomic, inputs, paths

FILE = "goodput.json"

# Kinds of time, and what they are called.
KINDS = {
  "steps": "training steps",
  "compile": "compiling",
  "data": "waiting for data",
  "evaluation": "evaluation",
  "saving": "saving",
  "start": "starting",
  "repeated": "steps done again",
  "down": "down",
}

# Checkpoints that are remembered, more than any run keeps.
_MARKS = 100
_SECONDS = bounds.number(0, bounds.LARGEST)


@dataclasses.dataclass
class Account:
  """What is known about the time of a run.

  Attributes:
    seconds: seconds by kind, see `KINDS`. "steps" is the productive time.
    marks: seconds of "steps" that led to a checkpoint, by its step.
    updated: Unix time at which this was last true.
    ended: whether the run has ended since as its user or its settings wanted,
      so that the time until its next start is not lost.
  """

  seconds: dict[str, float] = dataclasses.field(
    default_factory=lambda: dict.fromkeys(KINDS, 0.0)
  )
  marks: dict[int, float] = dataclasses.field(default_factory=dict)
  updated: float = 0.0
  ended: bool = True

  def go_on(self, step: int, now: float) -> None:
    """Counts what was lost before a start.

    Args:
      step: the checkpoint that the run goes on from, or 0.
      now: Unix time at which it was started.
    """
    self.marks = {at: s for at, s in self.marks.items() if at <= step}
    kept = max(self.marks.values(), default=0.0)
    self.seconds["repeated"] += max(0.0, self.seconds["steps"] - kept)
    self.seconds["steps"] = min(self.seconds["steps"], kept)
    if not self.ended:
      self.seconds["down"] += max(0.0, now - self.updated)

  def mark(self, step: int) -> None:
    """Notes that a checkpoint holds all training steps so far."""
    self.marks[step] = self.seconds["steps"]
    for old in sorted(self.marks)[:-_MARKS]:
      del self.marks[old]

  def write(self, workdir: pathlib.Path) -> None:
    """Writes the file completely or not at all."""
    atomic.write_json(workdir / FILE, dataclasses.asdict(self))


def read(workdir: str | os.PathLike) -> Account | None:
  """Reads the account of a run; None if there is none, or it is damaged.

  A damaged one is reported and not used: no training ends for it.
  """
  path = paths.of(workdir) / FILE
  if not path.exists():
    return None
  try:
    return _parse(inputs.read_object(path))
  except UserError as error:
    warnings.warn(
      f"{str(error).removesuffix('.')}; the times of the run before are not"
      " known.",
      Notice,
      stacklevel=2,
    )
    return None


def _parse(found: Mapping[str, Any]) -> Account:
  """Checks what the file holds.

  Raises:
    UserError: it is something else.
  """
  seconds, marks = found.get("seconds"), found.get("marks")
  bounds.check(f"{FILE}: seconds", seconds, bounds.mapping())
  bounds.check(f"{FILE}: marks", marks, bounds.mapping())
  bounds.check(f"{FILE}: updated", found.get("updated"), _SECONDS)
  assert isinstance(seconds, Mapping) and isinstance(marks, Mapping)
  for value in (*seconds.values(), *marks.values()):
    bounds.check(f"{FILE}: a time", value, _SECONDS)
  if not all(step.isdecimal() for step in marks):
    raise UserError(f"{FILE}: marks: expected steps")
  return Account(
    # Kinds of later versions are left out.
    seconds={kind: float(seconds.get(kind, 0.0)) for kind in KINDS},
    marks={int(step): float(value) for step, value in marks.items()},
    updated=float(found["updated"]),
    ended=found.get("ended") is True,
  )


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
  """Divides seconds by kind by their sum."""
  total = max(sum(seconds.values()), 1e-9)
  return {kind: value / total for kind, value in seconds.items()}


def describe(seconds: Mapping[str, float]) -> str:
  """Says in one line where the time went, the kinds that took any."""
  parts = [
    f"{KINDS[kind]} {formatting.share(part)}"
    for kind, part in shares(seconds).items()
    if part > 0
  ]
  total = formatting.duration(sum(seconds.values()))
  return f"{total} in all: {', '.join(parts)}"
