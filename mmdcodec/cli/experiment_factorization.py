"""`mmdcodec experiment factorization`: compare language models by pattern."""

import argparse

from mmdcodec import formatting
from mmdcodec.cli import experiment
from mmdcodec.errors import UserError

HELP = "language models under several patterns: bits per frame, and speed"
EXAMPLE = (
  "mmdcodec experiment factorization --train data/train --valid data/valid"
  " --workdir runs/factorization --codecs"
  " plain=runs/plain,independent=runs/independent"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the experiment's arguments."""
  experiment.add_common(parser, seeds=1)
  parser.add_argument(
    "--codecs",
    required=True,
    metavar="NAME=MODEL,...",
    help="bundles or workdirs, by the names that the table gives them",
  )
  parser.add_argument(
    "--patterns",
    default="delay,parallel,flatten",
    help="delay, parallel, flatten (one code a step, exact), depth (parallel"
    " with a depth transformer, exact), coarse_first (default: %(default)s)",
  )
  parser.description = (
    HELP
    + ". --config=NAME[:argument] is the language model (factorization), and"
    " --config.key=value overrides any key of it."
  )


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Runs what is missing and prints the table; returns 75 if preempted."""
  from mmdcodec import patterns
  from mmdcodec.experiments import factorization
  from mmdcodec.train import config_files, preemption

  if not any(argument.startswith("--config=") for argument in rest):
    rest = ["--config=factorization", *rest]
  config = config_files.parse(rest)
  experiment.check_datasets(args.train, args.valid)
  codecs = {}
  for pair in args.codecs.split(","):
    name, equals, path = pair.partition("=")
    if not equals or not name or not path:
      raise UserError(f"--codecs expects NAME=MODEL,..., not {pair!r}.")
    codecs[name] = path
  names = [name.strip() for name in args.patterns.split(",") if name.strip()]
  for name in names:
    if name != factorization.DEPTH:
      patterns.make(name, 2)
  try:
    found = factorization.run(
      config,
      args.workdir,
      codecs=codecs,
      train=args.train,
      valid=args.valid,
      patterns=names,
      seeds=args.seeds,
      log=lambda line: print(line, flush=True),
    )
  except preemption.Preempted:
    return preemption.EXIT_CODE
  print("\n" + formatting.table(*factorization.table(found)))
  print(f"\nresults.json and table.md: {args.workdir}")
  return 0
