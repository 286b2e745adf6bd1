"""`mmdcodec tokenize`: encode an audio data set for language models."""

import argparse
import pathlib

from mmdcodec import progress
from mmdcodec.cli import common

HELP = "encode a data set of audio as tokens, which language models train on"
EXAMPLE = "mmdcodec tokenize data/music data/music_tokens --model bundles/small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument("dataset", help="audio, of `mmdcodec prepare`")
  parser.add_argument("tokens", help="the folder to write")
  parser.add_argument(
    "--model",
    required=True,
    help="bundle of a tokenizer, such as a codec, or of a music model; or the"
    " workdir of a training run",
  )
  parser.add_argument(
    "--batch",
    type=int,
    default=16,
    metavar="N",
    help="records encoded at a time on each device (default: %(default)s)",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace tokens that exist"
  )
  parser.add_argument("--quiet", action="store_true", help="no progress line")
  common.add_process_arguments(parser)
  parser.description = (
    HELP + ". The same command again continues where it stopped."
  )


def run(args: argparse.Namespace) -> int:
  """Encodes the data set; the first process prints a summary."""
  common.quiet_processes(args)
  with common.processes(args):
    from mmdcodec import bundle, formatting
    from mmdcodec.data import report
    from mmdcodec.data.tokenization import tokenize

    shown = {} if args.quiet else {"show": progress.counter("records")}
    tokenizer = bundle.load_tokenizer(args.model)
    found = tokenize(
      args.dataset,
      args.tokens,
      tokenizer,
      batch=args.batch,
      force=args.force,
      **shown,
    )
  if found is not None:
    print(
      f"{args.tokens}: {found['records']} records,"
      f" {formatting.duration(found['seconds'])} of audio, {found['codebooks']}"
      f" codebooks of {max(found['codebook_sizes'])} at"
      f" {found['frame_rate']:g} Hz,"
      f" {formatting.file_size(common.folder_size(args.tokens))},"
      f" {found['tokenizer']} {found['hash']}"
    )
    for line in report.folder_lines(pathlib.Path(args.tokens)):
      print(line)
  return 0
