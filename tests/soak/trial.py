"""One trial: a scratch folder, a command, and the rules for its outcome.

A command may end in three ways. It is right, it is refused (one sentence, exit
code 2), or it falls back and says so. Everything else is a fault.
"""

import contextlib
import io
import os
import pathlib
import re
import shutil
import sys
import traceback
from typing import NamedTuple

import numpy as np

RIGHT, REFUSED, FELL_BACK = "right", "refused", "fell back"

# No errors of ours: lines of progress, which are set in, and what the MP3
# decoder of libsndfile writes by itself.
_NOT_OURS = re.compile(r"^(  .*|\s*|(Note|Warning): .*|\[src/libmpg123/.*)$")
# Names of exceptions are not sentences.
_NAMES = re.compile(r"\b[A-Z][A-Za-z]*(Error|Exception|Warning)\b")


class Fault(Exception):
  """A command ended in a way that no user should see."""


class Run(NamedTuple):
  """What a command left.

  Attributes:
    code: exit code.
    out: stdout.
    err: stderr.
    value: what a function returned.
  """

  code: int
  out: str
  err: str
  value: object = None


class Trial:
  """A scratch folder and the random numbers of a trial.

  Attributes:
    rng: decides everything in the trial.
    samples: folder of undamaged files, which stays as it is.
    folder: empty folder of the trial.
    words: what was damaged.
  """

  def __init__(self, kind, seed, samples, folder):
    """Makes the folder empty."""
    number = sum(ord(c) << 8 * i for i, c in enumerate(kind[:7]))
    self.rng = np.random.default_rng([number, seed])
    self.samples, self.folder = samples, folder
    self.words: list[str] = []
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

  def copy(self, name, to=None) -> pathlib.Path:
    """Copies a sample into the scratch folder."""
    source, target = self.samples / name, self.folder / (to or name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
      shutil.copytree(source, target, symlinks=True)
    else:
      shutil.copyfile(source, target)
    return target

  def pick(self, things):
    """Chooses one."""
    things = list(things)
    return things[self.rng.integers(len(things))]

  def chance(self, share) -> bool:
    """Is true in this share of the trials."""
    return self.rng.random() < share

  def run(self, *argv) -> Run:
    """Runs `mmdcodec ARGV`.

    Raises:
      Fault: it ended with a traceback, or with words that are no sentence.
    """
    from mmdcodec.cli.main import main

    return self.call(lambda: main([str(a) for a in argv]), command=True)

  def call(self, function, *, command=False) -> Run:
    """Calls a function as the command line would.

    Args:
      function: takes nothing.
      command: whether it returns an exit code; else a UserError means 2.

    Raises:
      Fault: see `run`.
    """
    from mmdcodec.errors import UserError

    code, value, trace = 0, None, ""
    with _captured(self.folder) as streams:
      try:
        value = function()
        code = value if command else 0
      except UserError as error:
        code = 2
        print(f"mmdcodec: {error}", file=sys.stderr)
      except SystemExit as error:
        code = error.code
      except BaseException:
        trace = traceback.format_exc()
    found = Run(code, *streams, value)
    if trace:
      raise Fault(f"{found.err}{trace}")
    if code not in (0, 1, 2):
      raise Fault(f"exit code {code}\n{found.err}")
    self._check_words(found)
    return found

  def _check_words(self, run):
    lines = [x for x in run.err.splitlines() if not _NOT_OURS.match(x)]
    if run.code == 2 and (
      len(lines) != 1
      or not lines[0].startswith("mmdcodec: ")
      or not lines[0].endswith((".", ")", "."))
    ):
      raise Fault(f"not one sentence:\n{run.err}{run.out}")
    for text in (run.err, run.out):
      if "Traceback" in text or _NAMES.search(text):
        raise Fault(f"words for programmers:\n{text}")
      if any(len(line) > 2000 for line in text.splitlines()):
        raise Fault(f"a line of {len(text)} characters:\n{text[:500]} ...")

  def refused(self, run, *outputs) -> bool:
    """Whether a command was refused; then it must have left nothing.

    Raises:
      Fault: it was, and one of the outputs is there, or a part of one.
    """
    # Shards of tokens stay for the next run, and locks that nobody holds.
    rest = [
      p
      for p in self.folder.rglob(".*")
      if not p.name.endswith((".unfinished", ".lock"))
    ]
    if rest:
      raise Fault(f"left behind: {rest}\n{run.err}")
    if run.code != 2:
      return False
    for path in outputs:
      if os.path.lexists(path):
        raise Fault(f"refused, but {path} is there\n{run.err}")
    return True


def require(condition, words):
  """Raises a Fault unless something holds."""
  if not condition:
    raise Fault(str(words))


@contextlib.contextmanager
def _captured(folder):
  """Captures stdout and stderr, those of C libraries too.

  Yields:
    A list that holds both as text at the end.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  saved = sys.stdout, sys.stderr, os.dup(1), os.dup(2)
  paths = [folder.with_name(f"{folder.name}.{name}") for name in ("out", "err")]
  files = [open(path, "w+b") for path in paths]
  texts: list[str] = []
  try:
    for number, file in enumerate(files, 1):
      os.dup2(file.fileno(), number)
    # Line by line, so that the order is that of the lines of C libraries.
    sys.stdout, sys.stderr = (
      io.TextIOWrapper(
        open(number, "wb", closefd=False),
        "utf-8",
        errors,
        line_buffering=True,
      )
      for number, errors in ((1, "strict"), (2, "backslashreplace"))
    )
    yield texts
  finally:
    with contextlib.suppress(Exception):
      sys.stdout.flush()
      sys.stderr.flush()
    sys.stdout, sys.stderr = saved[:2]
    for number, old in enumerate(saved[2:], 1):
      os.dup2(old, number)
      os.close(old)
    for file in files:
      file.seek(0)
      texts.append(file.read().decode("utf-8", "replace"))
      file.close()
