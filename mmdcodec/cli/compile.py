"""`mmdcodec compile`: whether a program fits a TPU slice, without one."""

import argparse
import shlex

HELP = "compile training, sampling or a codec for a TPU slice: does it fit?"
EXAMPLE = (
  "mmdcodec compile --config=soundstream_24khz --topology=v5e:2x2"
  " --config.batch=32"
)
PARSES_REST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.usage = (
    "%(prog)s --config=NAME[:ARGUMENT] [--config.KEY=VALUE ...] [options]"
  )
  parser.add_argument(
    "--topology",
    default="v5e:2x2",
    help="v4:2x2x4, v5e:4x4, v5p:2x2x2, v6e:4x4, tpu7x:2x2x1, ..., or"
    " 2xv5e:16x16 for two slices (default: %(default)s)",
  )
  parser.add_argument(
    "--program",
    choices=("train", "generate", "encode", "decode"),
    default="train",
    help="the training step; a step of sampling from a language model, for"
    " batch pieces of model.frames frames; encoding or decoding with a codec,"
    " of batch clips of data.seconds (default: %(default)s)",
  )
  parser.add_argument(
    "--decode",
    action="store_const",
    dest="program",
    const="generate",
    help="the same as --program generate",
  )
  parser.add_argument(
    "--json", action="store_true", help="print JSON, sizes in bytes"
  )


def run(args: argparse.Namespace, rest: list[str]) -> int:
  """Prints memory per chip by kind, a verdict, operations and collectives."""
  import json

  from mmdcodec.train import compile_report, config_files

  report = compile_report.make(
    config_files.parse(rest), args.topology, args.program
  )
  if args.json:
    options = [f"--topology={args.topology}"]
    if args.program != "train":
      options.append(f"--program={args.program}")
    command = shlex.join(["mmdcodec", "compile", *rest, *options])
    print(json.dumps({"command": command} | report.to_dict(), indent=1))
  else:
    print(f"{report}\ncompiled in {report.seconds:.0f} s")
  # Whoever has no memory for a program does not want to start it.
  return 1 if report.fits is False else 0
