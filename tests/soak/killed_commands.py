"""Kills commands that write at random moments, and runs them again.

    python tests/soak/killed_commands.py --seed 0 --kills 20
    python tests/soak/killed_commands.py --seed 0 --kills 20 --verbs prepare

After each kill, what the command writes is as it was before or as it becomes,
whole; after the next run it is what an undisturbed run makes, and no file is
left that such a run does not leave. Half of the kills come at a random time,
half just before the process touches a random file or folder.

Each command runs in a fork of this process, which has imported everything and
begun nothing; so a run takes as long as its work. What a command starts by
itself may be killed in its stead, or live on after it.
"""

import argparse
import contextlib
import logging
import os
import pathlib
import pickle
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

# Seconds after which a run hangs.
PATIENCE = 1800

# In the environment of all that a command starts.
_MARK = "SOAK_COMMAND"

# What changes folders, as Python's audit hooks call it.
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")
_MODES = re.compile(r"[wax+]")


class Child:
  """A command in a process of its own."""

  def __init__(self, argv, log, *, prepare=None, kill_at=None):
    """Starts it.

    Args:
      argv: of `mmdcodec`.
      log: file of its output.
      prepare: called first, in the new process.
      kill_at: number of changes of files before it kills itself; None: never.
    """
    self.log, read = log, None
    sys.stdout.flush()
    read, write = os.pipe()
    self.pid = os.fork()
    if not self.pid:
      os.close(read)
      _become(argv, log, prepare, kill_at, write)
    os.close(write)
    self._read, self.code, self.changes, self.seconds = read, None, 0, 0.0

  def wait(self, seconds=PATIENCE):
    """Waits for its end; returns whether it came."""
    end = time.monotonic() + seconds
    while self.code is None:
      pid, status, used = os.wait4(self.pid, os.WNOHANG)
      if pid:
        self.seconds = used.ru_utime + used.ru_stime
        self.code = os.waitstatus_to_exitcode(status)
        with open(self._read, "rb") as pipe:
          self.changes = int(pipe.read() or b"0")
      elif time.monotonic() >= end:
        return False
      else:
        time.sleep(0.002)
    return True

  def others(self):
    """Processes that it started and that are still there."""
    found, mark = [], f"{_MARK}={self.pid}".encode()
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
      with contextlib.suppress(OSError):
        state, _, _, session = (
          (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        )
        ours = int(session) == self.pid or mark in (
          (entry / "environ").read_bytes().split(b"\0")
        )
        if ours and state != "Z" and int(entry.name) != self.pid:
          found.append(int(entry.name))
    return found

  def kill(self, which):
    """Kills the process, the process and its children, or a child alone."""
    pids = self.others()
    if which == "child" and pids:
      pids = [random.choice(pids)]
    elif which == "one":
      pids = [self.pid]
    else:
      pids.append(self.pid)
    for pid in pids:
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _become(argv, log, prepare, kill_at, write):
  """Runs the command in this process and ends it."""
  os.setsid()
  os.environ[_MARK] = str(os.getpid())
  file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
  for number in (1, 2):
    os.dup2(file, number)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  changes, me = 0, os.getpid()

  def count(event, args):
    nonlocal changes
    changed = event in _CHANGES
    if event == "open" and isinstance(args[1], str):
      changed = bool(_MODES.search(args[1]))
    if changed and os.getpid() == me:
      changes += 1
      if changes == kill_at:
        os.kill(me, signal.SIGKILL)

  code = 70
  try:
    from mmdcodec.cli.main import main

    if prepare:
      prepare()
    sys.addaudithook(count)
    code = main([str(a) for a in argv])
  except BaseException:
    traceback.print_exc()
  finally:
    os.write(write, str(changes).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ask(function, *args):
  """Calls a function in a fork, so that this process never starts JAX."""
  read, write = os.pipe()
  pid = os.fork()
  if not pid:
    try:
      found = True, function(*args)
    except BaseException:
      found = False, traceback.format_exc()
    with open(write, "wb") as pipe:
      pipe.write(pickle.dumps(found))
    os._exit(0)
  os.close(write)
  with open(read, "rb") as pipe:
    good, found = pickle.loads(pipe.read())
  os.waitpid(pid, 0)
  if not good:
    raise AssertionError(found)
  return found


def names(folder):
  """Names of all files and folders, those that are random made alike."""
  found = set()
  for path in folder.rglob("*"):
    name = str(path.relative_to(folder))
    name = re.sub(r"events\.out\.tfevents\.\S+", "EVENTS", name)
    name = re.sub(r"\b[0-9a-f]{16,}\b(?!\.)", "DATA", name)
    found.add(name)
  return found


def run(command, folder, samples, kills, rng, say):
  """Kills one command again and again.

  Args:
    command: a `commands.Command`.
    folder: scratch folder.
    samples: folder of inputs.
    kills: how many.
    rng: of the moments.
    say: called with lines of text.

  Raises:
    AssertionError: something was lost, was left, or was wrong.
  """
  folder.mkdir()
  log = folder / "log"

  def finish(where, old=False):
    where.mkdir(exist_ok=True)
    argv = (command.old if old else command.argv)(samples, where)
    child = Child(argv, log, prepare=command.prepare)
    if not child.wait():
      child.kill("all")
      raise AssertionError(f"hangs: {argv}\n{log.read_text()}")
    assert child.code == 0, f"{child.code}: {argv}\n{log.read_text()[-3000:]}"
    return child

  start = time.monotonic()
  whole = finish(folder / "whole")
  duration = time.monotonic() - start
  new = ask(command.contents, folder / "whole")
  before = None
  if command.old:
    finish(folder / "old", old=True)
    before = ask(command.contents, folder / "old")
    assert before != new
  wanted, done, chain = names(folder / "whole"), 0, 0
  while done < kills:
    where, chain = folder / f"chain{chain}", chain + 1
    where.mkdir()
    had = bool(command.old) and rng.random() < 0.7
    if had:
      shutil.copytree(folder / "old", where, dirs_exist_ok=True, symlinks=True)
    words = []
    for earlier in range(min(rng.randint(2, 4), kills - done)):
      at, left = None, 0.5**earlier  # what resumes has less to do
      if rng.random() < 0.5:
        at = rng.randint(1, max(1, int(left * whole.changes)))
      child = Child(
        command.argv(samples, where), log, prepare=command.prepare, kill_at=at
      )
      if at is None:
        moment = rng.uniform(0, left * duration)
        which = rng.choice(["one", "all", "child"])
        words.append(f"{which} after {moment:.2f} of {duration:.2f} s")
        if not child.wait(moment):
          child.kill(which)
      else:
        words.append(f"before change {at} of {whole.changes}")
      if not child.wait():
        child.kill("all")
        raise AssertionError(f"hangs after {words}\n{log.read_text()}")
      killed = child.code == -signal.SIGKILL
      done += killed or "child" in words[-1]
      while child.others():  # they may finish what they do
        assert time.monotonic() - start < 36_000
        time.sleep(0.05)
      text = f"{command.name}: {'; '.join(words)}"
      found = ask(command.contents, where)
      ok = command.between(found, before if had else None, new)
      assert ok, f"{text}: neither old nor new: {found}"
    start = time.monotonic()
    finish(where)
    # The first run may have compiled. Later runs take as long as what is left.
    duration = min(duration, max(0.2, time.monotonic() - start))
    found = ask(command.contents, where)
    assert found == new, f"{text}: {found}, not {new}"
    rest = names(where) ^ wanted
    assert not rest, f"{text}: left or lost: {sorted(rest)}"
    shutil.rmtree(where)
    say(f"{done:3} kills, {chain} runs: all whole   {text}")
  say(f"{command.name}: {whole.seconds:.1f} s of CPU for a run")


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument("--kills", type=int, default=20, help="of each command")
  parser.add_argument("--verbs", help="names of commands, with commas")
  parser.add_argument("--root", help="folder of samples, kept for the next run")
  options = parser.parse_args()
  root = pathlib.Path(options.root or tempfile.mkdtemp(prefix="kills-"))
  import fuzz

  os.environ.update(fuzz.environment(root))
  logging.getLogger("absl").setLevel(logging.ERROR)
  if not (root / "samples" / "exported").exists():
    fuzz.make_samples(root / "samples")
  import commands

  failed = []
  for name in (options.verbs or ",".join(commands.COMMANDS)).split(","):
    rng = random.Random(f"{options.seed} {name}")
    random.seed(options.seed)
    scratch = root / "kills" / name
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.parent.mkdir(exist_ok=True)
    start = time.monotonic()
    try:
      run(
        commands.COMMANDS[name], scratch, root / "samples", options.kills, rng,
        lambda line: print(line, flush=True),
      )  # fmt: skip
      shutil.rmtree(scratch, ignore_errors=True)
    except AssertionError as error:
      failed.append(name)
      print(f"{name}: FAULT: {error}", flush=True)
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
  if not options.root:
    shutil.rmtree(root, ignore_errors=True)
  if failed:
    print(f"faults in {', '.join(failed)}")
  return bool(failed)


if __name__ == "__main__":
  sys.exit(main())
