"""`mmdcodec export`: a training run becomes a bundle, or a model programs."""

from mmdcodec import formatting
from mmdcodec.errors import UserError

HELP = "make a bundle of a training run, or StableHLO programs of a model"
EXAMPLE = "mmdcodec export runs/small bundles/small"


def add_arguments(parser):
  """Adds the verb's arguments."""
  parser.add_argument(
    "workdir",
    metavar="WORKDIR",
    help="of mmdcodec train; for stablehlo a bundle will do as well",
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
    help="which checkpoint; by default the best one, or the last",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace what an export made there"
  )


def run(args):
  """Exports one model."""
  from mmdcodec import bundle

  if args.format == "stablehlo":
    return _run_stablehlo(args)
  step = bundle.export(
    args.workdir, args.bundle, step=args.step, force=args.force
  )
  print(f"{args.bundle}: step {step} of {args.workdir}")


def _run_stablehlo(args):
  from mmdcodec import stablehlo
  from mmdcodec.cli import common

  if args.step is not None:
    raise UserError(
      "--step belongs to bundles: export the step as a bundle, and that as"
      " stablehlo."
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
