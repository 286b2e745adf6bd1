"""`mmdcodec export`: make a bundle from a run, or programs from a model."""

import argparse

from mmdcodec import formatting
from mmdcodec.errors import UserError

HELP = "make a bundle of a training run, or StableHLO programs of a model"
EXAMPLE = "mmdcodec export runs/codec codec"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "workdir",
    metavar="WORKDIR",
    help="of mmdcodec train; for stablehlo also a bundle",
  )
  parser.add_argument("bundle", metavar="BUNDLE", help="folder to make")
  parser.add_argument(
    "--format",
    choices=("bundle", "stablehlo"),
    default="bundle",
    help="stablehlo: encode and decode as programs for CPU, CUDA and TPU that"
    " run without mmdcodec",
  )
  parser.add_argument(
    "--step",
    type=int,
    help="checkpoint to export (default: the best one, or the last)",
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16", "float16", "int8"),
    help="type in which the parameters are stored (default: as they were"
    " trained); bfloat16 halves the file, int8 halves it again, and a few codes"
    " change (a codec's encoder has at least 16 bits)",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace what an export made there"
  )


def run(args: argparse.Namespace) -> int:
  """Exports one model."""
  from mmdcodec import bundle

  if args.format == "stablehlo":
    return _run_stablehlo(args)
  step = bundle.export(
    args.workdir,
    args.bundle,
    step=args.step,
    dtype=args.dtype,
    force=args.force,
  )
  print(f"{args.bundle}: step {step} of {args.workdir}")
  return 0


def _run_stablehlo(args: argparse.Namespace) -> int:
  """Exports the programs."""
  from mmdcodec import stablehlo
  from mmdcodec.cli import common

  for option in ("step", "dtype"):
    if getattr(args, option) is not None:
      raise UserError(
        f"--{option} is for bundles: export a bundle with it, then the bundle"
        " as stablehlo."
      )
  sizes = stablehlo.export_codec(
    common.load_codec(args.workdir), args.bundle, force=args.force
  )
  print(f"{args.bundle}: for {', '.join(stablehlo.PLATFORMS)}, see README.txt")
  print(
    formatting.table(
      None, [(name, formatting.file_size(size)) for name, size in sizes.items()]
    )
  )
  return 0
