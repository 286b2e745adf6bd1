"""`mmdcodec experiment`: run an experiment, from data to tables.

Each experiment is a module `experiment_NAME` with `HELP`, `EXAMPLE`,
`add_arguments(parser)` and `run(args, rest)`.
"""

import argparse
import importlib

from mmdcodec.cli import common
from mmdcodec.errors import UserError
from mmdcodec.store import paths

HELP = "run a comparison, from data to a table"
EXAMPLE = (
  "mmdcodec experiment independence --train data/train --valid data/valid"
  " --workdir runs/independence"
)
EXPERIMENTS = ("independence", "factorization", "prompts", "hierarchy")
OLD_NAMES = {"joint": "factorization"}
PARSES_REST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds a subparser for each experiment."""
  modules = {name: f"mmdcodec.cli.experiment_{name}" for name in EXPERIMENTS}
  common.add_subjects(parser, "name", modules, aliases=OLD_NAMES)


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Runs what is missing and prints the table; returns 75 if preempted."""
  name = OLD_NAMES.get(args.name, args.name)
  module = importlib.import_module(f"mmdcodec.cli.experiment_{name}")
  return module.run(args, rest)


def add_common(parser: argparse.ArgumentParser, *, seeds: int) -> None:
  """Adds arguments for experiments that train.

  Args:
    parser: parser of the experiment.
    seeds: default number of runs of each kind.
  """
  parser.add_argument("--train", required=True, metavar="DATASET[,DATASET]")
  parser.add_argument(
    "--valid",
    required=True,
    metavar="DATASET[,DATASET]",
    help="held-out music, for everything that is measured",
  )
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    required=True,
    help="everything goes here, each run in a folder",
  )
  parser.add_argument(
    "--seeds",
    type=int,
    default=seeds,
    help="runs of each kind (default: %(default)s)",
  )


def check_datasets(train: str, valid: str) -> None:
  """Checks that the data sets exist and that none is in both lists.

  Raises:
    UserError: a data set is missing, or in both lists.
  """
  from mmdcodec.data import record_source
  from mmdcodec.train import settings

  trained = list(settings.parse_datasets(train))
  measured = list(settings.parse_datasets(valid))
  for folder in (*trained, *measured):
    record_source.describe(folder)
  trained = {paths.of(folder).resolve() for folder in trained}
  for folder in measured:
    if paths.of(folder).resolve() in trained:
      raise UserError(
        f"{folder} is given as --train and as --valid; measure on other music."
      )
