"""`mmdcodec train`: train a model from a config."""

import argparse

from mmdcodec.cli import common

HELP = "train a model; the same command again continues it"
EXAMPLE = (
  "mmdcodec train --config=codec_small --workdir=runs/small"
  " --config.data.train=data/music --config.optimizer.learning_rate=1e-4"
)
PARSES_REST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "--workdir", required=True, help="checkpoints and metrics go here"
  )
  common.add_process_arguments(parser)
  parser.description = (
    HELP + ". --config=NAME[:argument] or --config=FILE.py[:argument] says"
    " what, --config.key=value overrides any key of it."
  )


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Trains; returns 75 if the run was preempted."""
  common.quiet_processes(args)
  from mmdcodec.train import config_files

  config = config_files.parse(rest)
  with common.processes(args):
    from mmdcodec.train import loop, preemption

    try:
      loop.train(config, args.workdir)
    except preemption.Preempted:
      return preemption.EXIT_CODE
  return 0
