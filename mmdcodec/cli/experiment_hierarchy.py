"""`mmdcodec experiment hierarchy`: what the levels of a MusicLM carry."""

import argparse
from typing import Any

from mmdcodec import formatting, progress

HELP = "does a MusicLM follow prompts of built-in music, and by which level?"
EXAMPLE = (
  "mmdcodec experiment hierarchy --model musiclm --workdir"
  " runs/hierarchy"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the experiment's arguments."""
  parser.add_argument("--model", required=True, help="bundle of a MusicLM")
  parser.add_argument("--workdir", required=True, help="everything goes here")
  for name, default, words in (
    ("songs", 300, "songs that classifiers learn from"),
    ("pieces", 384, "pieces of balanced prompts"),
    ("groups", 8, "groups of pieces that share the tokens of a level"),
    ("copies", 16, "pieces in a group"),
    ("seed", 0, "of the pieces"),
  ):
    parser.add_argument(
      f"--{name}",
      type=int,
      default=default,
      help=f"{words} (default: %(default)s)",
    )
  parser.add_argument(
    "--seconds",
    type=float,
    default=8.0,
    help="length of a song and of a piece (default: %(default)g)",
  )
  parser.add_argument(
    "--guidance",
    type=float,
    default=3.0,
    help="weight of the prompt; 1 for none extra (default: %(default)g)",
  )


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Makes the pieces, judges them, and prints the tables."""
  from mmdcodec.cli import common
  from mmdcodec.errors import UserError
  from mmdcodec.experiments import hierarchy, prompts

  if rest:
    raise UserError(f"{rest[0]!r} is not understood here.")
  music: Any = common.load_generator(args.model)
  if not hasattr(music, "parts"):
    raise UserError(
      f"{args.model} has one stage, so no levels; use `mmdcodec experiment"
      " prompts`."
    )
  found = hierarchy.run(
    music,
    args.workdir,
    songs=args.songs,
    pieces=args.pieces,
    seconds=args.seconds,
    groups=args.groups,
    copies=args.copies,
    seed=args.seed,
    guidance=args.guidance,
    name=args.model,
    show=progress.counter,
  )
  print(formatting.table(*prompts.table(found["traits"])))
  print(
    "\npieces that share a level, all below drawn anew: pairs with the same"
    " trait, frames with the same pitch class, distance of mel statistics\n"
  )
  print(formatting.table(*hierarchy.table(found["levels"])))
  print(f"\nresults.json, table.md and the pieces: {args.workdir}")
  return 0
