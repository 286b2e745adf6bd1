"""`mmdcodec export`: a training run becomes a bundle."""

HELP = "make a bundle (config and weights) of a training run"
EXAMPLE = "mmdcodec export runs/small bundles/small"


def add_arguments(parser):
  """Adds the verb's arguments."""
  parser.add_argument("workdir", metavar="WORKDIR", help="of mmdcodec train")
  parser.add_argument("bundle", metavar="BUNDLE", help="folder to make")
  parser.add_argument(
    "--step",
    type=int,
    help="which checkpoint; by default the best one, or the last",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace the bundle if it exists"
  )


def run(args):
  """Exports one checkpoint."""
  from mmdcodec import bundle

  step = bundle.export(
    args.workdir, args.bundle, step=args.step, force=args.force
  )
  print(f"{args.bundle}: step {step} of {args.workdir}")
