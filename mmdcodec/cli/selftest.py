"""`mmdcodec selftest`: whether this device computes right, and how fast."""

import argparse
import math

from mmdcodec.errors import UserError

HELP = "check every kernel and model on this device, then its speed"
EXAMPLE = "mmdcodec selftest --minutes 10 --json selftest.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "--minutes",
    type=float,
    default=10.0,
    metavar="M",
    help="after these nothing new begins; checks come first, then speeds"
    " (default: %(default)g)",
  )
  parser.add_argument(
    "--json",
    nargs="?",
    const="-",
    metavar="FILE",
    help="write all figures to a file as JSON; without FILE print them instead"
    " of the tables",
  )


def run(args: argparse.Namespace) -> int:
  """Prints what came out.

  Returns:
    1 if anything failed or no check ran, 75 if a signal stopped it.
  """
  import json
  import sys

  from mmdcodec import progress
  from mmdcodec.selftest import run as selftest
  from mmdcodec.store import atomic, paths
  from mmdcodec.train import preemption

  if not 0 < args.minutes < math.inf:
    raise UserError(f"--minutes is {args.minutes:g}; expected more than 0.")
  line = progress.ProgressLine()

  def show(done: int, total: int, name: str) -> None:
    if line.due():
      line.show(f"{done} of {total}: {name}")

  try:
    report = selftest.run(args.minutes, show)
  except preemption.Preempted:
    return preemption.EXIT_CODE
  if args.json == "-":
    print(json.dumps(report.to_dict(), indent=1))
  else:
    print(f"{report.device} ({report.platform}), {report.count} of them")
    print(report)
    if args.json:
      atomic.write_json(paths.of(args.json), report.to_dict())
  for sentence in report.sentences():
    print(f"mmdcodec: {sentence}", file=sys.stderr)
  if not report.outcomes:
    print(
      "mmdcodec: no check ran within --minutes; give more.", file=sys.stderr
    )
    return 1
  return 0 if report.passed else 1
