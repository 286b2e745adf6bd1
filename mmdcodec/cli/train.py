"""`mmdcodec train`: trains what a config describes."""

from mmdcodec.errors import UserError

HELP = "train a model; the same command again continues it"
EXAMPLE = (
  "mmdcodec train --config=codec_small --workdir=runs/small"
  " --config.data.train=data/music --config.optimizer.rate=1e-4"
)
PARSES_REST = True


def add_arguments(parser):
  """Adds the verb's arguments."""
  parser.add_argument(
    "--workdir", required=True, help="checkpoints and metrics go here"
  )
  parser.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="of process 0, for processes started by hand (clusters are detected)",
  )
  parser.add_argument("--num_processes", type=int)
  parser.add_argument("--process_id", type=int)
  parser.description = (
    HELP + ". --config=NAME[:argument] or --config=FILE.py[:argument] says"
    " what, --config.key=value overrides any key of it."
  )


def run(args, rest):
  """Trains; 75 if the run was preempted and can be continued."""
  from mmdcodec.cli import configs
  from mmdcodec.parallel import mesh

  config = configs.parse(rest)
  manual = (args.coordinator, args.num_processes, args.process_id)
  if any(v is not None for v in manual) and None in manual:
    raise UserError(
      "--coordinator, --num_processes and --process_id belong together."
    )
  mesh.start(*manual)

  from mmdcodec.train import loop, preemption

  try:
    loop.train(config, args.workdir)
  except preemption.Preempted:
    return preemption.EXIT_CODE
