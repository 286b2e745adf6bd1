"""Divides independent work over the processes of a run.

Each process does its share on its own devices, and all get the results of all,
in the order of one process. They wait for one another as long as all live: if
one ends, `peers.py` ends the others.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mmdcodec.errors import UserError
from mmdcodec.parallel import roll

Item = TypeVar("Item")
Result = TypeVar("Result")

# Seconds that a process may take longer than another one.
PATIENCE = 86_400.0
# Bytes that each process sends at a time; all devices hold those of all.
_AT_A_TIME = 32 << 20


def mine(count: int) -> range:
  """Returns the indices of the items that this process takes."""
  return range(jax.process_index(), count, jax.process_count())


def apply(
  function: Callable[[Item], Result],
  items: Sequence[Item],
  show: Callable[[int, int], None] = lambda done, total: None,
  *,
  size: int = 1,
) -> list[Result]:
  """Applies a function to items, each in one of the processes.

  All processes must call this with the same items.

  Args:
    function: takes an item; must not depend on other items.
    items: the items.
    show: called with (done, total) of this process, both times `size`.
    size: how many things an item stands for.

  Returns:
    The results of all items, in order, in all processes.

  Raises:
    UserError: the function raised one, or any error in another process.
  """
  here = mine(len(items))

  def results() -> Iterator[Result]:
    for done, i in enumerate(here, 1):
      yield function(items[i])
      show(done * size, len(here) * size)

  if jax.process_count() == 1:
    return list(results())
  found: list[Any] = [None] * len(items)
  with together("shares"):
    own = list(results())
  for process, theirs in enumerate(gather(own)):
    found[process :: jax.process_count()] = theirs
  return found


def gather(value: Any) -> list[Any]:
  """Returns the values of all processes, in their order, in each of them.

  Args:
    value: anything that can be pickled.
  """
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(pickle.dumps(value), np.uint8)
  said = roll.exchange("sizes", str(len(data)), patience=PATIENCE)
  sizes = [int(text) for text in said]
  parts: list[np.ndarray] = []
  for start in range(0, max(sizes), _AT_A_TIME):
    length = min(_AT_A_TIME, max(sizes) - start)
    part = np.zeros(length, np.uint8)
    sent = data[start : start + length]
    part[: len(sent)] = sent
    parts.append(np.asarray(multihost_utils.process_allgather(part)))
  rows = np.concatenate(parts, axis=1)
  return [
    pickle.loads(row[:size].tobytes())
    for row, size in zip(rows, sizes, strict=True)
  ]


@contextlib.contextmanager
def together(topic: str) -> Iterator[None]:
  """Waits after the block for all; a mistake in one ends it in all.

  Args:
    topic: what the block does, the same for all.

  Raises:
    UserError: the block raised one in this process or in another one.
  """
  reason, error = "", None
  try:
    yield
  except Exception as raised:
    error = raised
    reason = str(raised) if isinstance(raised, UserError) else repr(raised)
    reason = reason or type(raised).__name__
  reasons = roll.exchange(topic, reason, patience=PATIENCE)
  if error is not None:
    raise error
  if reason := next(filter(None, reasons), ""):
    raise UserError(reason)
