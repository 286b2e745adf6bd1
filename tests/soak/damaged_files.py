"""Reads damaged `.mmdc` files until time is up.

    python tests/soak/damaged_files.py --seed 0 --minutes 60
    python tests/soak/damaged_files.py --seed 0 --trials 10000

Ends with an error if damage passes unseen, if a reader crashes, or if frames
that are not reported lost differ from what was written.
"""

import argparse
import collections
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from damaged_streams import run_many  # noqa: E402

BATCH = 1000


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seed", type=int, default=0, help="of the damage")
  parser.add_argument("--minutes", type=float, default=60.0)
  parser.add_argument("--trials", type=int, help="files, in place of minutes")
  options = parser.parse_args()
  if options.trials:
    print_counts(run_many(options.trials, options.seed))
    return
  end, seed = time.monotonic() + 60 * options.minutes, options.seed
  counts = collections.Counter()
  while time.monotonic() < end:
    print(f"seed {seed}", flush=True)
    counts.update(run_many(BATCH, seed))
    seed += 1
  print_counts(counts)


def print_counts(counts):
  for (sealed, outcome), number in sorted(counts.items()):
    kind = "checksums made right" if sealed else "damaged"
    print(f"{kind:20}  {outcome:10}  {number:8,}")


if __name__ == "__main__":
  main()
