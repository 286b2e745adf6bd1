"""`mmdcodec prepare`: make a data set from a folder of audio."""

import argparse

HELP = "cut a folder of audio into a data set of FLAC records"
EXAMPLE = (
  "mmdcodec prepare ~/music data/music --captions ~/music/captions.csv\n"
  "  mmdcodec prepare fma_small data/fma --captions fma_metadata/tracks.csv"
  " --only split=training"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument("folder", help="audio files, in any of its folders")
  parser.add_argument("dataset", help="the folder to write")
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
    help="files processed at a time (default: one for each CPU)",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace a data set that exists"
  )
  parser.add_argument("--quiet", action="store_true", help="no progress line")


def run(args: argparse.Namespace) -> int:
  """Makes the data set and prints a summary."""
  from mmdcodec.data.records import prepare
  from mmdcodec.errors import UserError

  only = {}
  for pair in args.only:
    tag, equals, value = pair.partition("=")
    if not equals or not tag:
      raise UserError(f"--only expects TAG=VALUE, not {pair!r}.")
    only[tag] = value
  report = prepare(
    args.folder,
    args.dataset,
    rate=args.rate,
    channels=args.channels,
    seconds=args.seconds,
    captions=args.captions,
    only=only,
    workers=args.workers,
    progress=not args.quiet,
    force=args.force,
  )
  print(report)
  return 0
