"""`mmdcodec prepare`: make a data set from a folder of audio."""

import argparse

HELP = "cut a folder of audio into a data set of FLAC records"
EXAMPLE = (
  "mmdcodec prepare ~/music data/music --captions ~/music/captions.csv\n"
  "  mmdcodec prepare fma_small data/fma --captions fma_metadata/tracks.csv"
  " --only split=training\n"
  "  mmdcodec prepare /mnt/music gs://bucket/music --runner=DataflowRunner"
  " --project=P --region=R --temp_location=gs://bucket/tmp"
)
PARSES_REST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "folder", metavar="FOLDER", help="audio files, in any of its folders"
  )
  parser.add_argument("dataset", metavar="DATASET", help="folder to write")
  parser.add_argument(
    "--captions",
    metavar="FILE",
    help="captions and tags: a CSV or JSON-lines file with a column of paths,"
    " FMA's tracks.csv, or the CSV of MusicCaps (told apart by their headers);"
    " without it, song.json or song.txt beside song.wav",
  )
  parser.add_argument(
    "--rate",
    type=int,
    default=24000,
    metavar="HZ",
    help="sample rate of the records (default: %(default)s)",
  )
  parser.add_argument(
    "--channels",
    type=int,
    default=1,
    metavar="N",
    help="channels of the records (default: %(default)s)",
  )
  parser.add_argument(
    "--seconds",
    type=float,
    default=30.0,
    metavar="S",
    help="length of a record; the last one of a file has 0.5 to 1.5 times this"
    " (default: %(default)s)",
  )
  parser.add_argument(
    "--only",
    action="append",
    default=[],
    metavar="TAG=VALUE",
    help="take only files with this tag; may be repeated",
  )
  parser.add_argument(
    "--workers",
    type=int,
    metavar="N",
    help="files processed at a time (default: one for each CPU; with --runner,"
    " one in each of its workers)",
  )
  parser.add_argument(
    "--shards",
    type=_share,
    metavar="I/N",
    help="make only part I of N (1/N to N/N), each by a command of its own with"
    " the same other arguments, on any machine that reaches both folders; the"
    " last one to end makes the data set, which is that of one command. Each"
    " may be run again after a kill",
  )
  parser.add_argument(
    "--runner",
    metavar="NAME",
    help="make the parts with this runner of Apache Beam, such as DirectRunner;"
    " its workers need this package, and both folders under the same names;"
    " options that are not listed here go to Beam",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace a data set that exists"
  )
  parser.add_argument("--quiet", action="store_true", help="no progress line")


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Makes the data set, or a part of it, and prints a summary."""
  from mmdcodec.data import record_shares, records
  from mmdcodec.errors import UserError

  if rest and args.runner is None:
    raise UserError(
      f"unknown arguments: {' '.join(rest)}; `mmdcodec prepare --help` lists"
      " what there is (with --runner, others go to Apache Beam)."
    )
  if args.runner is not None and args.shards is not None:
    raise UserError("--runner divides the work by itself: omit --shards.")
  only = {}
  for pair in args.only:
    tag, equals, value = pair.partition("=")
    if not equals or not tag:
      raise UserError(f"--only expects TAG=VALUE, not {pair!r}.")
    only[tag] = value
  names = ("rate", "channels", "seconds", "captions", "force")
  options = {name: getattr(args, name) for name in names} | {"only": only}
  if args.runner is not None:
    from mmdcodec.data import beam

    job = records.plan(args.folder, args.dataset, **options)
    arguments = [f"--runner={args.runner}", *rest]
    print(beam.make(job, arguments, workers=args.workers))
    return 0
  how = dict(workers=args.workers, progress=not args.quiet)
  if args.shards is not None:
    job = records.plan(args.folder, args.dataset, **options)
    print(record_shares.make_share(job, *args.shards, **how))
    return 0
  print(records.prepare(args.folder, args.dataset, **options, **how))
  return 0


def _share(text: str) -> tuple[int, int]:
  """Parses I/N."""
  index, slash, count = text.partition("/")
  if not (slash and index.isdecimal() and count.isdecimal()):
    raise argparse.ArgumentTypeError(f"expected I/N, such as 2/8, not {text!r}")
  return int(index), int(count)
