"""`mmdcodec experiment independence`: test the independence loss on codecs."""

import argparse
import signal

from mmdcodec import formatting
from mmdcodec.cli import experiment
from mmdcodec.errors import UserError

HELP = "train and compare codecs with and without the independence loss"
EXAMPLE = (
  "mmdcodec experiment independence --train data/train --valid data/valid"
  " --workdir runs/independence --seeds 3"
)
# Copied from `experiments/arms.py`, which imports JAX, too slow for --help.
ARMS = (
  "none",
  "mmd_frame",
  "mmd_delay",
  "dhsic_frame",
  "dhsic_delay",
  "mmd_free_scale",
  "mmd_gaussian_squared",
  "mmd_gaussian_relative",
  "mmd_laplacian",
  "mmd_inverse_multiquadric",
  "mmd_linear",
  "mmd_quadratic",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the experiment's arguments."""
  experiment.add_common(parser, seeds=3)
  parser.add_argument(
    "--arms",
    default="grid",
    help="grid (losses and patterns), ablation (kernels), all (both), or names"
    " with commas, of: " + ", ".join(ARMS),
  )
  parser.add_argument(
    "--gradient-ratio",
    type=float,
    default=4.0,
    help="norm of the loss's gradient at the encoder's output when the loss"
    " begins, as a multiple of that of the reconstruction losses; sets its"
    " weight (default: %(default)g)",
  )
  parser.add_argument(
    "--clips",
    type=int,
    default=120,
    help="clips to measure on (default: %(default)s)",
  )
  parser.add_argument(
    "--clip-seconds",
    type=float,
    default=10.0,
    help="length of a clip (default: %(default)g)",
  )
  parser.add_argument(
    "--no-curves",
    action="store_true",
    help="measure only the last checkpoint",
  )
  parser.add_argument(
    "--jobs", type=int, help="runs at a time (default: one for each CPU)"
  )
  parser.description = (
    HELP + ". --config=NAME[:argument] is the codec (independence), and"
    " --config.key=value overrides any key of it."
  )


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Runs what is missing and prints the table."""
  from mmdcodec.experiments import arm_grid, arm_report
  from mmdcodec.experiments import arms as arms_lib
  from mmdcodec.train import config_files

  if not any(argument.startswith("--config=") for argument in rest):
    rest = ["--config=independence", *rest]
  config = config_files.parse(rest)
  config.data.train, config.data.valid = args.train, args.valid
  experiment.check_datasets(args.train, args.valid)
  arms = {
    "grid": arms_lib.GRID,
    "ablation": arms_lib.ABLATION,
    "all": arms_lib.ARMS,
  }.get(args.arms)
  if arms is None:
    arms = [name.strip() for name in args.arms.split(",") if name.strip()]
  if args.jobs is not None and args.jobs < 1:
    raise UserError(f"--jobs is {args.jobs}; it must be at least 1.")
  # As with Ctrl-C, active runs save and stop, and can be resumed.
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    found = arm_grid.run(
      config,
      args.workdir,
      held_out=args.valid,
      arms=list(arms),
      seeds=args.seeds,
      gradient_ratio=args.gradient_ratio,
      clips=args.clips,
      clip_seconds=args.clip_seconds,
      curves=not args.no_curves,
      jobs=args.jobs,
      log=lambda line: print(line, flush=True),
    )
  finally:
    # None if it was not set from Python.
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
  for table in (arm_report.dependence_table, arm_report.codes_table):
    print("\n" + formatting.table(*table(found)))
  print(f"\nresults, table.md and plots: {args.workdir}")
  return 0
