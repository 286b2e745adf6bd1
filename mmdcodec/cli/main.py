"""The `mmdcodec` command: dispatches to verbs and reports user errors.

A verb is a module of `mmdcodec.cli` with `HELP` (one line), `EXAMPLE` (a
command line), `add_arguments(parser)` and `run(args)`, which returns the exit
code. A verb with `PARSES_REST = True` parses unknown arguments itself: its
`run` also takes that list.
"""

import faulthandler
import importlib
import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

import mmdcodec
from mmdcodec import memory, packaged, platform
from mmdcodec.cli import streams
from mmdcodec.cli.parser import Formatter, Parser
from mmdcodec.errors import Notice, UserError, causes
from mmdcodec.formatting import is_utf8
from mmdcodec.store import disk, paths

# In the order in which users need them.
VERBS = (
  "quickstart",
  "encode",
  "decode",
  "generate",
  "demo",
  "info",
  "prepare",
  "train",
  "tokenize",
  "finetune",
  "evaluate",
  "export",
  "convert",
  "cluster",
  "assemble",
  "experiment",
  "compile",
  "bench",
  "selftest",
)


def make_parser(verbs: Sequence[str] = VERBS) -> Parser:
  """Makes the parser, with a subparser for each verb."""
  parser = Parser(
    prog="mmdcodec",
    description="Neural audio codecs and music models in JAX.",
    epilog="`mmdcodec VERB --help` shows an example of each verb. Models that"
    f" ship with the package, for --model: {', '.join(packaged.names())}.",
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
      formatter_class=Formatter,
    )
    module.add_arguments(subparser)
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs one verb.

  Args:
    argv: the command line without the program's name. By default that of the
      process, whose streams this function then prepares and ends.

  Returns:
    The exit code: 0; 1 if some files of a folder, or checks, failed; 2 for a
    user error; 75 if a run was preempted, or lost its store, and can be
    resumed; 130 if interrupted; 141 if the reader of the output is gone.
  """
  if argv is not None:
    return _run(argv)
  streams.begin()
  # If a library in C++ crashes, this prints where Python was; otherwise the
  # process dies without a word. Stderr need not be a file here, but 2 is one.
  faulthandler.enable(2)
  memory.keep_freed()
  platform.expect_no_tpu()
  platform.keep_programs()
  platform.one_command = True
  code = 1  # of the interpreter, after a traceback
  try:
    code = _run(sys.argv[1:])
  except SystemExit as leaving:  # of argparse
    code = int(leaving.code or 0)
  finally:
    code = streams.end(code)
  return code


def _run(argv: Sequence[str]) -> int:
  """Runs one verb and reports errors; see `main`."""
  # Libraries of checkpoints, data and object stores log even errors that they
  # then raise.
  for name in ("absl", "asyncio", "fsspec", "gcsfs", "s3fs"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  streams.forgive()
  # Import only the verb that runs: `mmdcodec info` must not wait for the data
  # pipeline.
  known = bool(argv) and argv[0] in VERBS
  parser = make_parser((argv[0],) if known else VERBS)
  with warnings.catch_warnings():
    warnings.simplefilter("always", Notice)
    warnings.showwarning = _show_warning
    return _run_verb(parser, argv)


def _run_verb(parser: Parser, argv: Sequence[str]) -> int:
  """Runs a verb and turns errors into exit codes; see `main`."""
  try:
    paths.check_words(argv)
    if not argv:
      parser.print_help(sys.stderr)
      return 2
    args, rest = parser.parse_known_args(argv)
    module = importlib.import_module(f"mmdcodec.cli.{args.verb}")
    if getattr(module, "PARSES_REST", False):
      code = module.run(args, rest) or 0
    else:
      parser.verb(args.verb).refuse(rest)
      code = module.run(args) or 0
    with disk.named("/dev/stdout"):
      sys.stdout.flush()
    return code
  except UserError as error:
    streams.say(str(error))
    return error.exit_code
  except KeyboardInterrupt:
    streams.say("interrupted")
    return 130
  except Exception as error:
    return _report(error)


def _report(error: Exception) -> int:
  """Reports an error of the system, or raises it again: it is a bug.

  Returns:
    The exit code.
  """
  broken = any(isinstance(cause, BrokenPipeError) for cause in causes(error))
  if broken and streams.reader_gone():
    # Quietly, as `| head` expects.
    streams.discard(sys.stdout)
    return streams.READER_GONE
  if disk.full(error):
    streams.say(disk.sentence(error))
    return 2
  if isinstance(error, UnicodeEncodeError) and not is_utf8(error.object):
    # Libraries in C++ take only paths in UTF-8.
    streams.say(f"{error.object!r} is not in UTF-8; give it another name.")
    return 2
  if isinstance(error, FileExistsError | NotADirectoryError):
    if words := _in_the_way(error.filename):
      streams.say(f"{words}; give the name of a folder.")
      return 2
  if isinstance(error, OSError) and error.filename is not None:
    # A path that cannot be read or created.
    streams.say(f"{error.filename}: {error.strerror}.")
    return 2
  raise error


def _in_the_way(path: str | None) -> str:
  """What stands where a folder was to be: at a path, or above it."""
  if not path:
    return ""
  whole = pathlib.Path(path)
  for each in (whole, *whole.parents):
    if os.path.lexists(each) and not each.is_dir():
      if each.exists():
        return f"{each}: is a file"
      return f"{each}: is a link to {os.readlink(each)}, which does not exist"
  return ""


def _show_warning(
  message: Warning | str,
  category: type[Warning],
  filename: str,
  lineno: int,
  file: TextIO | None = None,
  line: str | None = None,
) -> None:
  """Prints notices in a line, and other warnings as Python does."""
  if issubclass(category, Notice):
    streams.say(str(message))
    return
  words = warnings.formatwarning(message, category, filename, lineno, line)
  (file or sys.stderr).write(words)


if __name__ == "__main__":
  sys.exit(main())
