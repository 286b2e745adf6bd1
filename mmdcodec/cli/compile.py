"""`mmdcodec compile`: compile training or sampling for a TPU slice."""

import argparse

HELP = "compile a training step, or one of sampling, for a TPU slice"
EXAMPLE = (
  "mmdcodec compile --config=soundstream_24khz --topology=v5e:2x2"
  " --config.batch=32"
)
PARSES_REST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "--topology",
    default="v5e:2x2",
    help="v5e:2x2, v5e:4x4, v5p:2x2x2, v4:2x2x4, ..., or 2xv5e:16x16 for two"
    " slices (default: %(default)s)",
  )

  parser.add_argument(
    "--decode",
    action="store_true",
    help="sampling from a language model instead of training: batch pieces of"
    " model.frames frames",
  )


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Prints memory per chip, operations, traffic and collectives."""
  import time

  from mmdcodec.train import compile as ahead
  from mmdcodec.train import config_files

  config = config_files.parse(rest)
  start = time.perf_counter()
  compile_for = ahead.compile_decode if args.decode else ahead.compile_step
  print(compile_for(config, args.topology))
  print(f"compiled in {time.perf_counter() - start:.0f} s")
  return 0
