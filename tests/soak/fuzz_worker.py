"""Runs trials one after the other for `fuzz.py`, in a process of its own.

    python tests/soak/fuzz_worker.py SAMPLES SCRATCH

Reads lines `KIND SEED SECONDS` from stdin; answers each with a line of JSON.
"""

import faulthandler
import json
import os
import pathlib
import resource
import sys
import time
import traceback

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

# What a trial may take beyond what the process holds already.
MEMORY = 2 << 30


def main(samples, scratch):
  answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
  # Nothing that a library prints may come between the answers.
  os.dup2(2, 1)
  import kinds
  import trial as trial_lib

  import mmdcodec.bundle
  import mmdcodec.data.records
  import mmdcodec.train.loop  # noqa: F401

  traces = open(scratch.with_suffix(".trace"), "w+")
  for line in sys.stdin:
    kind, seed, seconds = line.split()
    trial = trial_lib.Trial(kind, int(seed), samples, scratch)
    start, before = time.monotonic(), peak(reset=True)
    faulthandler.dump_traceback_later(float(seconds), file=traces)
    limit(held() + MEMORY)
    detail = ""
    try:
      outcome = kinds.KINDS[kind][0](trial)
    except trial_lib.Fault as fault:
      outcome, detail = "FAULT", str(fault)
    except BaseException:
      outcome, detail = "FAULT", f"the check itself: {traceback.format_exc()}"
    limit(resource.RLIM_INFINITY)
    faulthandler.cancel_dump_traceback_later()
    used = peak() - before
    if outcome != "FAULT" and used > MEMORY:
      outcome, detail = "FAULT", f"{used >> 20} MiB"
    answer = {
      "outcome": outcome,
      "detail": detail[-6000:],
      "words": trial.words,
      "seconds": round(time.monotonic() - start, 2),
      "mib": used >> 20,
      "held": held() >> 20,
    }
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def limit(size):
  resource.setrlimit(resource.RLIMIT_DATA, (size, resource.RLIM_INFINITY))


def held() -> int:
  """Bytes of private memory, those that were never touched too."""
  return _status("VmData")


def peak(*, reset=False) -> int:
  """The most bytes in memory since the last reset."""
  if reset:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
  return _status("VmHWM")


def _status(name):
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{name}:"):
      return int(line.split()[1]) << 10
  return 0


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
