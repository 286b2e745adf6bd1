"""`mmdcodec experiment prompts`: measure whether music follows its prompts."""

import argparse
from typing import Any

from mmdcodec import formatting, progress

HELP = "does a model of built-in music make what its prompts ask for?"
EXAMPLE = (
  "mmdcodec experiment prompts --model mmdcodec-quickstart/music_bundle"
  " --workdir runs/prompts"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the experiment's arguments."""
  parser.add_argument(
    "--model", required=True, help="bundle or workdir of a music model"
  )
  parser.add_argument("--workdir", required=True, help="everything goes here")
  parser.add_argument(
    "--songs",
    type=int,
    default=300,
    help="songs that classifiers learn from (default: %(default)s)",
  )
  parser.add_argument(
    "--pieces",
    type=int,
    default=96,
    help="pieces to make, from captions of other songs (default: %(default)s)",
  )
  parser.add_argument(
    "--seconds",
    type=float,
    default=8.0,
    help="length of a song and of a piece (default: %(default)g)",
  )
  parser.add_argument(
    "--seed", type=int, default=0, help="of the pieces (default: %(default)s)"
  )
  parser.add_argument(
    "--guidance",
    type=float,
    default=3.0,
    help="weight of the prompt; 1 for none extra (default: %(default)g)",
  )
  parser.add_argument(
    "--balanced",
    action="store_true",
    help='ask for each value of a trait as often as for the others, for "no'
    ' drums" too',
  )


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Generates music, judges it, and prints the table."""
  from mmdcodec.cli import common
  from mmdcodec.errors import UserError
  from mmdcodec.experiments import prompts

  if rest:
    raise UserError(f"{rest[0]!r} is not understood here.")
  music: Any = common.load_generator(args.model)
  found = prompts.run(
    music,
    args.workdir,
    songs=args.songs,
    pieces=args.pieces,
    seconds=args.seconds,
    seed=args.seed,
    guidance=args.guidance,
    name=args.model,
    balanced=args.balanced,
    show=progress.counter,
  )
  print(formatting.table(*prompts.table(found)))
  print(
    "\nby chance: compared with the captions of other pieces; p: probability of"
    " as many matches by chance, for each trait by itself"
  )
  print(f"results.json, table.md and the pieces: {args.workdir}")
  return 0
