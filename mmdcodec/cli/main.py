"""The `mmdcodec` command: dispatches to verbs and reports user errors.

A verb is a module of `mmdcodec.cli` with `HELP` (one line), `EXAMPLE` (a
command line), `add_arguments(parser)` and `run(args)`, which returns the exit
code. A verb with `PARSES_REST = True` parses unknown arguments itself: its
`run` also takes that list.
"""

import argparse
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

import mmdcodec
from mmdcodec.errors import UserError

# In the order in which users need them.
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


def make_parser(verbs: Sequence[str] = VERBS) -> argparse.ArgumentParser:
  """Makes the parser, with a subparser for each verb."""
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
    The exit code: 0; 1 if some files of a folder failed; 2 for a user error; 75
    if a run was preempted (and can be resumed); 130 if interrupted.
  """
  argv = sys.argv[1:] if argv is None else list(argv)
  # Checkpoint and data libraries log their internals to it.
  logging.getLogger("absl").setLevel(logging.ERROR)
  # Import only the verb that runs: `mmdcodec info` must not wait for the data
  # pipeline.
  known = bool(argv) and argv[0] in VERBS
  parser = make_parser((argv[0],) if known else VERBS)
  try:
    args, rest = parser.parse_known_args(argv)
    module = importlib.import_module(f"mmdcodec.cli.{args.verb}")
    if getattr(module, "PARSES_REST", False):
      code = module.run(args, rest) or 0
    else:
      code = module.run(parser.parse_args(argv)) or 0
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
    # The reader of our output is gone (`| head`), so exit quietly.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except OSError as error:
    # A path that cannot be read or created, or a full disk.
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if error.filename is None and not full:
      raise
    where = "" if error.filename is None else f"{error.filename}: "
    print(f"mmdcodec: {where}{error.strerror}.", file=sys.stderr)
    return 2


def _stdout_works() -> bool:
  """Whether pending output can be written."""
  try:
    sys.stdout.flush()
  except BrokenPipeError:
    return False
  return True


if __name__ == "__main__":
  sys.exit(main())
