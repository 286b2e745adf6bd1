"""`mmdcodec assemble`: make one bundle of the parts of a MusicLM."""

import argparse

from mmdcodec import formatting

HELP = "make one bundle of the tokenizers and stages of a MusicLM"
EXAMPLE = (
  "mmdcodec assemble musiclm --codec codec\n"
  "      --semantic semantic --joint mulan\n"
  "      --stages runs/semantic_lm runs/coarse_lm runs/fine_lm"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument("bundle", metavar="BUNDLE", help="folder to make")
  parser.add_argument(
    "--codec", required=True, metavar="MODEL", help="bundle or workdir"
  )
  parser.add_argument(
    "--stages",
    required=True,
    nargs="+",
    metavar="STAGE",
    help="one to three language models over tokens, in any order: a coarse"
    " stage, and perhaps a semantic and a fine one",
  )
  parser.add_argument(
    "--semantic", metavar="MODEL", help="semantic tokenizer, with codebooks"
  )
  parser.add_argument(
    "--joint",
    metavar="MODEL",
    help="joint embedding of music and text, with codebooks; without one the"
    " model takes no text",
  )
  parser.add_argument(
    "--melody", metavar="MODEL", help="melody embedding, with codebooks"
  )
  parser.add_argument(
    "--force", action="store_true", help="replace a bundle that exists"
  )


def run(args: argparse.Namespace) -> int:
  """Assembles the bundle and prints its parts."""
  from mmdcodec.cli import musiclm_table
  from mmdcodec.workflows import assemble

  parts = assemble.assemble(
    args.bundle,
    codec=args.codec,
    stages=args.stages,
    semantic=args.semantic,
    joint=args.joint,
    melody=args.melody,
    force=args.force,
  )
  print(f"{args.bundle}: a MusicLM")
  print(formatting.table(*musiclm_table.table(parts)))
  return 0
