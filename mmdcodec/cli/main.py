"""The `mmdcodec` command: finds its verbs, and speaks plainly of mistakes.

A verb is a module of `mmdcodec.cli` with `HELP` (one line), `EXAMPLE` (a
command line), `add_arguments(parser)` and `run(args)`. One that reads the rest
of the command line by itself has `PARSES_REST = True`, and its `run` takes the
list of arguments as well.
"""

import argparse
import errno
import importlib
import logging
import os
import sys

import mmdcodec
from mmdcodec.errors import UserError

# In the order in which they are needed.
VERBS = (
  "quickstart",
  "prepare",
  "train",
  "finetune",
  "convert",
  "export",
  "tokenize",
  "encode",
  "decode",
  "generate",
  "evaluate",
  "info",
  "experiment",
  "compile",
  "bench",
)


def make_parser(verbs=VERBS) -> argparse.ArgumentParser:
  """The parser, with a subparser for each of the verbs."""
  parser = argparse.ArgumentParser(
    prog="mmdcodec",
    description="Neural audio codecs and music models in JAX.",
    epilog="`mmdcodec VERB --help` shows an example of each verb.",
  )
  parser.add_argument(
    "--version", action="version", version=mmdcodec.__version__
  )
  subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
  for verb in verbs:
    module = importlib.import_module(f"mmdcodec.cli.{verb}")
    subparser = subparsers.add_parser(
      verb,
      help=module.HELP,
      description=module.HELP,
      epilog="example:\n  " + module.EXAMPLE,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    module.add_arguments(subparser)
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs one verb.

  Args:
    argv: the command line without the program's name.

  Returns:
    The exit code: 0; 1 if some files of a folder failed; 2 after a mistake of
    the user's; 75 when a training run was preempted (and can be continued);
    130 if interrupted.
  """
  argv = sys.argv[1:] if argv is None else list(argv)
  # Checkpoint and data libraries tell of their inner life there.
  logging.getLogger("absl").setLevel(logging.ERROR)
  # Only the verb that is run is imported: `mmdcodec info` must not wait for
  # the data pipeline.
  known = bool(argv) and argv[0] in VERBS
  parser = make_parser((argv[0],) if known else VERBS)
  module = importlib.import_module(f"mmdcodec.cli.{argv[0]}") if known else None
  try:
    if getattr(module, "PARSES_REST", False):
      args, rest = parser.parse_known_args(argv)
      code = module.run(args, rest) or 0
    else:
      args = parser.parse_args(argv)
      code = module.run(args) or 0
    sys.stdout.flush()
    return code
  except UserError as error:
    print(f"mmdcodec: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("mmdcodec: interrupted", file=sys.stderr)
    return 130
  except BrokenPipeError:
    if _stdout_works():
      raise
    # The reader of our output went away (`| head`); so do we, quietly.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except OSError as error:
    # A path of the user's that can't be read or made, or a full disk.
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if error.filename is None and not full:
      raise
    where = "" if error.filename is None else f"{error.filename}: "
    print(f"mmdcodec: {where}{error.strerror}.", file=sys.stderr)
    return 2


def _stdout_works() -> bool:
  """Whether what was printed so far can be written."""
  try:
    sys.stdout.flush()
  except BrokenPipeError:
    return False
  return True


if __name__ == "__main__":
  sys.exit(main())
