"""Replaces a folder again and again, killed at each line of `atomic` in turn.

    python tests/killed_at_lines.py FOLDER [no-exchange]

Ends with an error if the folder is ever neither old nor new, or if anything is
left beside it. A process of its own, because JAX must not be forked.
"""

import os
import pathlib
import sys

from mmdcodec.store import atomic


def main(path, *options):
  can_exchange = "no-exchange" not in options
  if not can_exchange:
    atomic._exchange = lambda one, other: False
  path, line = pathlib.Path(path), 0
  write(path, "old")
  while killed_at(line, lambda: write(path, "new")):
    # Without an exchange, the next run puts the old folder back.
    assert not can_exchange or os.listdir(path) in (["old"], ["new"]), line
    atomic.restore_folder(path)
    assert os.listdir(path) in (["old"], ["new"]), line
    assert os.listdir(path.parent) == [path.name], line
    write(path, "old")
    line += 1
  assert os.listdir(path) == ["new"] and os.listdir(path.parent) == [path.name]
  print(line)


def write(path, name):
  with atomic.folder(path) as partial:
    (partial / name).touch()


def killed_at(number, function):
  """Calls it in a process that dies at that line; returns whether it died."""
  child = os.fork()
  if child:
    return os.waitpid(child, 0)[1] != 0
  seen = 0

  def trace(frame, event, _):
    nonlocal seen
    if frame.f_code.co_filename != atomic.__file__:
      return None
    seen += event == "line"
    if seen > number:
      os._exit(1)
    return trace

  sys.settrace(trace)
  function()
  os._exit(0)


if __name__ == "__main__":
  main(*sys.argv[1:])
