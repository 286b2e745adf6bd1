"""What a compiled program sends between chips, read from its text (HLO).

Three things make counting lines wrong. TPUs cut a collective into pieces, each
fused with a computation, which all have the number of its channel. Loops run
their content many times. And a reduce-scatter is written as a fusion of an
all-reduce and a slice.
"""

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all",
         "collective-permute")  # fmt: skip
# What goes from one slice to another, over the network of the data center.
SLICES = "between slices"

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(
  r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$"
)
_CALLED = re.compile(
  r"(condition|body|calls|to_apply|called_computations|branch_computations)"
  r"=(\{[^}]*\}|%?[\w.\-]+)"
)
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_BITS = {"pred": 8, "s4": 4, "u4": 4}


class Traffic(NamedTuple):
  """Collectives of one kind, per chip and run of the program.

  Attributes:
    number: how many run.
    bytes: size of what they give or, if larger, are given: of a gathered or
      summed array. Over n chips, a gather moves (n - 1) / n of it, a sum twice
      as much.
  """

  number: int
  bytes: int


class _Line(NamedTuple):
  name: str
  shape: str
  kind: str
  rest: str


def read(text: str) -> dict[str, Traffic]:
  """Finds the collectives of a program, by kind.

  Args:
    text: the compiled program, from `jax.stages.Compiled.as_text()`.

  Returns:
    Traffic of the kinds that it has. A loop whose number of turns the program
    does not tell counts once.
  """
  entry, computations = _split(text)
  found: dict[tuple[str, str], Traffic] = {}
  for name, turns in _turns(entry, computations).items():
    shapes = {line.name: line.shape for line in computations[name]}
    for line in computations[name]:
      kind = _kind(line, name)
      if kind is None:
        continue
      channel = re.search(r"channel_id=(\d+)", line.rest)
      key = kind, channel.group(1) if channel else f"{name}/{line.name}"
      size = _size(line, shapes)
      before = found.get(key, Traffic(0, 0))
      # Pieces of one collective: as many, and as large, as the largest.
      found[key] = Traffic(
        max(before.number, turns), max(before.bytes, turns * size)
      )
  total: dict[str, Traffic] = {}
  for (kind, _), one in found.items():
    before = total.get(kind, Traffic(0, 0))
    total[kind] = Traffic(before.number + one.number, before.bytes + one.bytes)
  return {k: total[k] for k in (*KINDS, SLICES) if k in total}


def _split(text: str) -> tuple[str, dict[str, list[_Line]]]:
  """The name of the entry, and the instructions of each computation."""
  computations: dict[str, list[_Line]] = {}
  entry, lines = "", []
  for row in text.splitlines():
    if header := _COMPUTATION.match(row):
      name = header.group(2)
      lines = computations.setdefault(name, [])
      entry = name if header.group(1) else entry
    elif instruction := _INSTRUCTION.match(row):
      lines.append(_Line(*instruction.groups()))
  return entry, computations


def _turns(entry: str, computations: dict[str, list[_Line]]) -> dict[str, int]:
  """How often each computation runs that the entry reaches."""
  turns: dict[str, int] = {}
  waiting = [(entry, 1)] if entry in computations else []
  while waiting:
    name, times = waiting.pop()
    if turns.get(name, 0) >= times:
      continue
    turns[name] = times
    for line in computations[name]:
      called = dict(_CALLED.findall(line.rest))
      each = times
      if line.kind == "while":
        condition = called.pop("condition", "").lstrip("%")
        each *= _length(line, computations.get(condition, []))
      for value in called.values():
        for other in re.findall(r"[\w.\-]+", value):
          if other in computations:
            waiting.append((other, each))
  return turns


def _length(loop: _Line, condition: list[_Line]) -> int:
  """The turns of a loop: what its condition compares the counter with."""
  if known := re.search(r'known_trip_count.{0,5}"n":"(\d+)"', loop.rest):
    return int(known.group(1))
  limits = [
    int(value.group(1))
    for line in condition
    if line.kind == "constant"
    and (value := re.match(r"(\d+)\)", line.rest)) is not None
  ]
  return max(limits[0], 1) if len(limits) == 1 else 1


def _kind(line: _Line, computation: str) -> str | None:
  """The kind of a collective; None for any other instruction."""
  kind = line.kind.removesuffix("-start")
  if kind == "send" and "megascale" in line.rest:
    return SLICES
  if kind == "all-reduce" and "all-reduce-scatter" in computation:
    return "reduce-scatter"
  return kind if kind in KINDS else None


def _size(line: _Line, shapes: dict[str, str]) -> int:
  """Bytes of the result, or of the operands if those are larger."""
  arrays = list(map(_bytes, _ARRAY.findall(line.shape)))
  if line.kind in ("send", "collective-permute-start", "all-gather-start"):
    # The result also holds the operand, or only the operand.
    return max(arrays, default=0)
  names = re.findall(r"%([\w.\-]+)", line.rest.split(")", 1)[0])
  given = [
    sum(map(_bytes, _ARRAY.findall(shapes.get(name, "")))) for name in names
  ]
  return max(sum(arrays), sum(given))


def _bytes(array: tuple[str, str]) -> int:
  kind, sides = array
  bits = _BITS.get(kind) or int((re.search(r"\d+", kind) or [0])[0])
  return math.prod(int(side) for side in sides.split(",") if side) * bits // 8
