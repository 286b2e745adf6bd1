"""Damages all that users give to the program, and checks what comes of it.

    python tests/soak/fuzz.py --seed 0 --trials 10000
    python tests/soak/fuzz.py --seed 0 --seconds 600 --kinds audio,coded
    python tests/soak/fuzz.py --replay audio:17

Every trial damages one thing, runs what a user would run with it, and ends as
one of three: right, refused in one sentence with exit code 2, or fallen back to
something sound with words about it. Anything else, a trial that takes too long
or too much memory, and a process that dies, is a fault: it is written into
--faults with the command that repeats it, and the program ends with 1.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import fast_xla  # noqa: E402
from kinds import KINDS  # noqa: E402

OUTCOMES = ("right", "refused", "fell back", "FAULT")
# A process that holds more is replaced.
MOST_HELD = 4000  # MiB
MOST_TRIALS = 400


def environment(scratch):
  """Of workers: one device, programs that compile fast and are kept."""
  flags = f"--xla_force_host_platform_device_count=1 {fast_xla.FLAGS}"
  cache = os.environ.get("XDG_CACHE_HOME", str(scratch / "cache"))
  return {
    **os.environ,
    "XDG_CACHE_HOME": cache,
    "JAX_COMPILATION_CACHE_DIR": f"{cache}/mmdcodec/compiled",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": flags,
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }


class Worker:
  """A process that runs trials, started anew when it dies."""

  def __init__(self, samples, scratch):
    """Starts nothing yet."""
    self._samples, self._scratch = samples, scratch
    self._process, self._trials = None, 0

  def run(self, kind, seed) -> dict:
    """Runs one trial and returns the worker's answer."""
    seconds = KINDS[kind][2]
    if self._process is None:
      self._start()
    process, start = self._process, time.monotonic()
    line, died = "", False
    try:
      process.stdin.write(f"{kind} {seed} {seconds}\n".encode())
      process.stdin.flush()
    except BrokenPipeError:
      died = True
    # Imports of the first trial take their time.
    wait = seconds + 10 + (60 if not self._trials else 0)
    if not died and select.select([process.stdout], [], [], wait)[0]:
      line = process.stdout.readline()
    self._trials += 1
    if line:
      found = json.loads(line)
      if found["held"] > MOST_HELD or self._trials > MOST_TRIALS:
        self.close()
      return found
    hung = process.poll() is None and not died
    self.close()
    trace = self._scratch.with_suffix(".trace")
    why = f"hangs after {seconds} s" if hung else f"died: {process.returncode}"
    return {
      "outcome": "FAULT",
      "detail": f"{why}\n{trace.read_text()[:6000] if trace.exists() else ''}",
      "words": [],
      "seconds": round(time.monotonic() - start, 2),
      "mib": 0,
    }

  def _start(self):
    self._trials = 0
    argv = [HERE / "fuzz_worker.py", self._samples, self._scratch]
    self._process = subprocess.Popen(
      [sys.executable, *map(str, argv)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=open(self._scratch.with_suffix(".log"), "ab"),
      env=environment(self._scratch.parent),
      start_new_session=True,
    )

  def close(self):
    """Ends the process and all that it started."""
    if self._process is not None:
      try:
        os.killpg(self._process.pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
      self._process.wait()
      self._process.stdin.close()
      self._process.stdout.close()
      self._process = None


def make_samples(folder):
  """Makes the undamaged files in a process of its own."""
  folder.mkdir(parents=True, exist_ok=True)
  subprocess.run(
    [sys.executable, str(HERE / "samples.py"), str(folder)],
    env=environment(folder.parent),
    check=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def plan(kinds, trials, seed):
  """Yields (kind, seed) by the shares of the kinds, for ever without trials."""
  total = sum(KINDS[kind][1] for kind in kinds)
  owed, given = dict.fromkeys(kinds, 0.0), collections.Counter()
  number = 0
  while trials is None or number < trials:
    for kind in kinds:
      owed[kind] += KINDS[kind][1] / total
    kind = max(kinds, key=owed.get)
    owed[kind] -= 1
    yield kind, seed + given[kind]
    given[kind] += 1
    number += 1


def run(
  root, *, kinds=tuple(KINDS), trials=None, seconds=None, seed=0, workers=1,
  path=None, say=print,
):  # fmt: skip
  """Runs trials until one of the budgets is spent.

  Args:
    root: folder for samples and scratch files.
    kinds: names of kinds.
    trials: number of trials; None: no limit.
    seconds: of wall clock; None: no limit.
    seed: of the first trial of each kind.
    workers: processes at a time.
    path: file to which faults are appended; None: none.
    say: called with lines of text.

  Returns:
    Counts {(kind, outcome): number}, and the faults, each with kind, seed and
    what the worker answered.
  """
  if not (root / "samples" / "exported").exists():
    make_samples(root / "samples")
  end = time.monotonic() + (seconds or float("inf"))
  counts, faults, spent = collections.Counter(), [], collections.Counter()
  lock, todo = threading.Lock(), plan(kinds, trials, seed)

  def work(number):
    worker = Worker(root / "samples", root / f"scratch{number}")
    try:
      while time.monotonic() < end:
        with lock:
          job = next(todo, None)
        if job is None:
          break
        found = worker.run(*job)
        if found["outcome"] == "FAULT":
          # Alone, in a new process: what came before it may be to blame.
          worker.close()
          again = worker.run(*job)
          found["alone"] = again["outcome"]
          if again["outcome"] == "FAULT":
            found = {**again, "alone": "FAULT"}
        with lock:
          counts[job[0], found["outcome"]] += 1
          spent[job[0]] += found["seconds"]
          if counts.total() % 500 == 0:
            say(table(counts, spent))
          if found["outcome"] == "FAULT":
            fault = {"kind": job[0], "seed": job[1], **found}
            faults.append(fault)
            if path:
              write_fault(fault, path)
            last = found["detail"].strip().splitlines()[-1:] or [""]
            say(f"{job[0]}:{job[1]} {'; '.join(found['words'])[:120]}")
            say(f"    {last[0][:200]}")
    finally:
      worker.close()

  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    for done in [pool.submit(work, i) for i in range(workers)]:
      done.result()
  say(table(counts, spent))
  return counts, faults


def table(counts, spent) -> str:
  """Outcomes by kind."""
  rows = [("kind", "trials", *OUTCOMES, "s/trial")]
  kinds = sorted({kind for kind, _ in counts}, key=list(KINDS).index)
  for kind in [*kinds, "all"]:
    of = [k for k in kinds if kind in (k, "all")]
    found = [sum(counts[k, outcome] for k in of) for outcome in OUTCOMES]
    number = sum(found)
    each = sum(spent[k] for k in of) / max(1, number)
    rows.append((kind, number, *found, f"{each:.2f}"))
  return "\n".join(
    f"{row[0]:12}" + "".join(f"{x:>11}" for x in row[1:]) for row in rows
  )


def write_fault(fault, path):
  """Appends a fault and the command that repeats it as a line of JSON."""
  name = f"{fault['kind']}:{fault['seed']}"
  command = f"python tests/soak/fuzz.py --replay {name}"
  with open(path, "a", encoding="utf-8") as file:
    file.write(json.dumps({"replay": command, **fault}) + "\n")


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seed", type=int, default=0, help="of the damage")
  parser.add_argument("--trials", type=int)
  parser.add_argument("--seconds", type=float)
  parser.add_argument("--kinds", default=",".join(KINDS))
  parser.add_argument("--workers", type=int, default=1)
  parser.add_argument("--replay", metavar="KIND:SEED", help="this trial alone")
  parser.add_argument("--root", help="folder of samples, kept for the next run")
  parser.add_argument("--faults", default="faults.jsonl")
  options = parser.parse_args()
  if options.trials is options.seconds is None:
    options.seconds = 60.0
  root = pathlib.Path(options.root or tempfile.mkdtemp(prefix="fuzz-"))
  try:
    if options.replay:
      kind, seed = options.replay.split(":")
      if not (root / "samples" / "exported").exists():
        make_samples(root / "samples")
      worker = Worker(root / "samples", root / "replay")
      found = worker.run(kind, int(seed))
      worker.close()
      print(f"{found['outcome']}: {'; '.join(found['words'])}")
      print(found["detail"])
      return found["outcome"] == "FAULT"
    _, faults = run(
      root,
      kinds=tuple(options.kinds.split(",")),
      trials=options.trials,
      seconds=options.seconds,
      seed=options.seed,
      workers=options.workers,
      path=options.faults,
      say=lambda line: print(line, flush=True),
    )
    if faults:
      print(f"{len(faults)} faults: {options.faults}")
    return bool(faults)
  finally:
    if not options.root:
      shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
  sys.exit(main())
