"""Kills a training at random moments, resumes it, and compares the end.

    python tests/soak/killed_runs.py --seed 0 --kills 100
    python tests/soak/killed_runs.py --seed 0 --kills 20 --store gs

Every chain has up to five kills before its run may finish. The end must equal
that of a run without kills to the last bit: parameters, codebooks, optimizers,
running averages, losses of all steps and the position in the data.
"""

import argparse
import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import object_stores  # noqa: E402
import training_runs as runs  # noqa: E402
from tunes import prepare_tunes  # noqa: E402

from mmdcodec.store import paths  # noqa: E402


def kill_after(seconds, workdir, dataset):
  """Runs for so long, or to the end. Returns whether it had to be killed."""
  process = subprocess.Popen(
    runs.command(workdir, dataset, config=runs.CONFIG),
    env=runs.environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    process.wait(seconds)
  except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGKILL)
  return process.wait() == -signal.SIGKILL


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument(
    "--store",
    choices=object_stores.SCHEMES,
    help="runs and data set are in an object store, served on this machine",
  )
  options = parser.parse_args()
  random.seed(options.seed)
  with contextlib.ExitStack() as stack:
    made = stack.enter_context(tempfile.TemporaryDirectory())
    folder = pathlib.Path(made)
    if options.store:
      stack.enter_context(object_stores.served(folder / "log"))
      os.environ["MMDCODEC_CACHE"] = str(folder / "cache")
      folder = paths.of(f"{options.store}://{object_stores.BUCKET}/soak")
    dataset = prepare_tunes(pathlib.Path(made) / "tunes", folder / "dataset")
    runs.finish(folder / "whole", dataset, config=runs.CONFIG)  # compiles
    start = time.monotonic()
    runs.finish(folder / "uninterrupted", dataset, config=runs.CONFIG)
    duration = time.monotonic() - start
    kills, chain = 0, 0
    while kills < options.kills:
      workdir, chain = folder / f"chain{chain}", chain + 1
      for _ in range(random.randint(1, 5)):
        # Any moment, that of a save or of the start included.
        if not kill_after(random.uniform(0, duration), workdir, dataset):
          break
        kills += 1
      runs.finish(workdir, dataset, config=runs.CONFIG)
      runs.assert_same_end(workdir, folder / "uninterrupted")
      print(f"{kills} kills in {chain} runs: all equal", flush=True)


if __name__ == "__main__":
  main()
