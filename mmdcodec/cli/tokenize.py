"""`mmdcodec tokenize`: encode an audio data set for language models."""

import argparse
import pathlib

from mmdcodec import progress
from mmdcodec.cli import common
from mmdcodec.store import paths

HELP = "encode a data set of audio as tokens, which language models train on"
EXAMPLE = "mmdcodec tokenize data/music data/music_tokens --model small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "dataset", metavar="DATASET", help="audio, of `mmdcodec prepare`"
  )
  parser.add_argument("tokens", metavar="TOKENS", help="folder to write")
  parser.add_argument(
    "--model",
    required=True,
    action="append",
    help="bundle of a tokenizer, such as a codec, or of a music model; or the"
    " workdir of a training run. Several of different kinds read the audio"
    " once; each writes to a subfolder named after its kind",
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
    from mmdcodec import bundle
    from mmdcodec.data import tokenization

    options = dict(batch=args.batch, force=args.force)
    if not args.quiet:
      options["show"] = progress.counter("records")
    tokenizers = [bundle.load_tokenizer(path) for path in args.model]
    found: dict[str, dict] | None
    if len(tokenizers) > 1:
      found = tokenization.tokenize_all(
        args.dataset, args.tokens, tokenizers, **options
      )
    else:
      made = tokenization.tokenize(
        args.dataset, args.tokens, tokenizers[0], **options
      )
      found = None if made is None else {"": made}
  for name, summary in (found or {}).items():
    _print(paths.of(args.tokens) / name, summary)
  return 0


def _print(folder: pathlib.Path, found: dict) -> None:
  """Prints what a token data set holds."""
  from mmdcodec import formatting
  from mmdcodec.data import report

  print(
    f"{folder}: {found['records']} records,"
    f" {formatting.duration(found['seconds'])} of audio, {found['codebooks']}"
    f" codebooks of {max(found['codebook_sizes'])} at"
    f" {found['frame_rate']:g} Hz,"
    f" {formatting.file_size(common.folder_size(folder))},"
    f" {found['tokenizer']} {found['hash']}"
  )
  for line in report.folder_lines(folder):
    print(line)
