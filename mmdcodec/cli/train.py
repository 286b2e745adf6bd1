"""`mmdcodec train`: train a model from a config."""

import argparse

from mmdcodec.cli import common
from mmdcodec.errors import UserError
from mmdcodec.train import config_names

HELP = "train a model; the same command again continues it"
EXAMPLE = (
  "mmdcodec train --config=codec_small --workdir=runs/small"
  " --config.data.train=data/music --config.optimizer.learning_rate=1e-4"
)
PARSES_REST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    required=True,
    help="checkpoints and metrics go here",
  )
  parser.add_argument(
    "--dry-run",
    action="store_true",
    help="print the config, check data and workdir, compile the step; write"
    " nothing",
  )
  parser.add_argument(
    "--topology",
    help="for --dry-run: a TPU slice to compile for, as of `mmdcodec compile`"
    " (default: the devices that are there)",
  )
  common.add_process_arguments(parser)
  parser.usage = (
    "%(prog)s --config=NAME[:ARGUMENT] --workdir=DIR [--config.KEY=VALUE ...]"
    " [options]"
  )
  parser.description = (
    HELP + ". --config=NAME[:argument] or --config=FILE.py[:argument] says"
    " what, --config.key=value overrides any key of it. NAME is one of"
    f" {', '.join(config_names.names())}."
  )


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Trains; returns 75 if the run was preempted.

  A dry run returns 1 if the step does not fit the devices.
  """
  if args.topology and not args.dry_run:
    raise UserError(
      "--topology belongs to --dry-run: a run takes the devices that are there."
    )
  common.quiet_processes(args)
  from mmdcodec.train import config_files

  config = config_files.parse(rest)
  with common.processes(args, saves=not args.dry_run):
    if args.dry_run:
      from mmdcodec.train import dry_run

      return int(
        not dry_run.check(config, args.workdir, topology=args.topology)
      )
    from mmdcodec.train import loop, preemption

    try:
      loop.train(config, args.workdir)
    except preemption.Preempted:
      return preemption.EXIT_CODE
  return 0
