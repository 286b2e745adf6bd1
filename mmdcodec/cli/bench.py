"""`mmdcodec bench`: speed and memory, compared with their lower bounds."""

import argparse
import importlib

from mmdcodec.cli import common
from mmdcodec.errors import UserError

HELP = "measure speed and memory beside their floors"
EXAMPLE = "mmdcodec bench codec --config=codec_small --config.batch=16"
SUBJECTS = {
  "codec": "mmdcodec.bench.codec",
  "codecs": "mmdcodec.bench.codecs",
  "tokenizers": "mmdcodec.bench.tokenizers",
  "lm": "mmdcodec.bench.lm",
  "data": "mmdcodec.bench.data",
  "independence": "mmdcodec.bench.loss_estimators",
}
PARSES_REST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds a subparser for each subject."""
  common.add_subjects(parser, "subject", SUBJECTS)


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Runs one benchmark; only those that take a config use `rest`."""
  module = importlib.import_module(SUBJECTS[args.subject])
  if getattr(module, "PARSES_REST", False):
    return module.run(args, rest)
  if rest:
    raise UserError(f"bench {args.subject} does not understand {rest[0]!r}.")
  return module.run(args)
