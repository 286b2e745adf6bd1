"""`mmdcodec decode`: turn `.mmdc` files back into audio."""

import argparse
import contextlib
import functools
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmdcodec import formatting, progress
from mmdcodec.cli import streams
from mmdcodec.errors import UserError
from mmdcodec.store import paths

HELP = "decode .mmdc files to audio"
EXAMPLE = (
  "mmdcodec decode song.mmdc song.wav --model small\n"
  "  mmdcodec decode song.mmdc part.flac --start 60 --end 75 --model"
  " small\n"
  "  mmdcodec decode coded/ music/ --format flac --model small"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "input",
    metavar="IN",
    help=".mmdc or raw .ecdc (EnCodec) file, a folder of them, or - for one on"
    " stdin",
  )
  parser.add_argument(
    "output",
    metavar="OUT",
    help="audio file (.wav .flac .ogg .opus .mp3 .aiff), folder, or - for a wav"
    " on stdout",
  )
  parser.add_argument(
    "--model",
    required=True,
    help="the packaged model, bundle or workdir that encoded it",
  )
  parser.add_argument(
    "--rate",
    type=int,
    metavar="HZ",
    help="sample rate of OUT; the codec's by default",
  )
  parser.add_argument(
    "--start",
    type=float,
    default=0.0,
    metavar="S",
    help="second to begin with (with an LSTM in the codec, the part is close to"
    " that of the whole file, not equal)",
  )
  parser.add_argument(
    "--end", type=float, metavar="S", help="second to stop before"
  )
  parser.add_argument(
    "--recover",
    action="store_true",
    help="decode what is left of a damaged file, with silence for the rest",
  )
  parser.add_argument(
    "--format",
    default="wav",
    metavar="NAME",
    help="of the files made from a folder (default: %(default)s)",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace what exists"
  )


def run(args: argparse.Namespace) -> int:
  """Decodes one file or all files of a folder."""
  from mmdcodec.audio import block_io, resampling
  from mmdcodec.bitstream import decoding
  from mmdcodec.cli import batch, common

  if args.rate is not None and not 1 <= args.rate <= resampling.MAX_RATE:
    raise UserError(f"--rate is {args.rate}; it is in Hz, such as 44100.")
  source, target = paths.of(args.input), args.output
  if args.input != batch.PIPE and source.is_dir():
    return _run_folder(args, source)
  if args.input != batch.PIPE:
    common.check_input(source, stdin=True)
  if target != batch.PIPE:
    _check_target(args, source)
    target = common.check_output(target, force=args.force)
  with contextlib.ExitStack() as stack:
    out, say = target, print
    if target == batch.PIPE:
      pipe = streams.stdout()
      # A wav header contains the length, so it cannot be written in advance.
      folder = stack.enter_context(tempfile.TemporaryDirectory())
      out = Path(folder) / "stdout.wav"
      say = functools.partial(print, file=sys.stderr)
    file = source
    if args.input == batch.PIPE:
      file = stack.enter_context(block_io.spooled(streams.stdin()))
    codes = stack.enter_context(decoding.opened(file, recover=args.recover))
    codec = common.load_codec(args.model)
    decode_file(args, codec, codes, out, say, show=True)
    if target == batch.PIPE:
      with open(out, "rb") as made:
        shutil.copyfileobj(made, pipe)
  return 0


def _check_target(args: argparse.Namespace, source: Path) -> None:
  """Checks that the output is audio.

  Raises:
    UserError: it is not.
  """
  from mmdcodec import bitstream
  from mmdcodec.audio import files

  target = args.output
  suffix = paths.of(target).suffix.lower()
  if source.suffix.lower() != bitstream.SUFFIX and suffix == bitstream.SUFFIX:
    raise UserError(
      f"decode makes audio of a {bitstream.SUFFIX} file; to make the"
      f" {bitstream.SUFFIX} file: mmdcodec encode {source} {target} --model"
      f" {args.model}"
    )
  if suffix not in files.SUFFIXES:
    raise UserError(
      f"{target}: cannot tell the audio format; the name must end in one of"
      f" {' '.join(files.SUFFIXES)}."
    )


def _run_folder(args: argparse.Namespace, folder: Path) -> int:
  """Decodes all files of a folder."""
  from mmdcodec import bitstream
  from mmdcodec.audio import files
  from mmdcodec.bitstream import decoding, ecdc
  from mmdcodec.cli import batch, common

  out = batch.check_folders(folder, args.output, files.SUFFIXES)
  suffix = "." + args.format.lower().lstrip(".")
  if suffix not in files.SUFFIXES:
    raise UserError(
      f"--format is {args.format}; it is one of"
      f" {' '.join(s[1:] for s in files.SUFFIXES)}."
    )
  found = sorted(
    root / name
    for root, _, names in files.walk(folder)
    for name in names
    if name.lower().endswith((bitstream.SUFFIX, ecdc.SUFFIX))
  )
  if not found:
    raise UserError(f"{folder} holds no {bitstream.SUFFIX} files.")
  codec = common.load_codec(args.model)

  def work(source: Path, target: Path) -> None:
    with decoding.opened(source, recover=args.recover) as codes:
      decode_file(args, codec, codes, target)

  return batch.run(
    batch.plan(folder, found, out, suffix), work, force=args.force
  )


def decode_file(
  args: argparse.Namespace,
  codec: Any,
  reader: Any,
  target: Path,
  say: Callable[[str], None] | None = None,
  *,
  show: bool = False,
) -> None:
  """Decodes codes of any length in constant memory.

  Args:
    args: arguments of the command.
    codec: the model.
    reader: reader of the codes.
    target: path of the audio.
    say: prints a line; None to print nothing.
    show: whether to show progress.

  Raises:
    UserError: another codec made the codes, they are damaged, or the target
      cannot be written.
  """
  from mmdcodec.audio import block_io
  from mmdcodec.bitstream import decoding

  reader = decoding.check_codec(reader, codec, args.model)
  begin, end = _span(args, reader)
  seconds = (end - begin) // codec.rate
  counter = progress.counter("seconds") if show and seconds else None
  name = "stdout" if args.output == "-" else str(target)
  with block_io.create(
    target, rate=codec.rate, channels=codec.channels, to=args.rate, name=name
  ) as writer:
    for x in decoding.decode_part(codec, reader, begin, end):
      writer.write(x)
      if counter:
        counter(min(writer.samples // codec.rate, seconds), seconds)
  for words in reader.damage:
    print(f"{reader.name}: {words}", file=sys.stderr)
  if say:
    duration = (end - begin) / codec.rate
    kbps = reader.header.raw_bits * reader.header.frame_rate / 1000
    say(
      f"{name}: {duration:.2f} s, {writer.rate} Hz,"
      f" {formatting.channels(codec.channels)}, from"
      f" {formatting.count(reader.header.codebooks, 'codebook', 'codebooks')}"
      f" ({kbps:.2f} kbps of raw codes)"
    )


def _span(args: argparse.Namespace, reader: Any) -> tuple[int, int]:
  """Returns the requested start and end in samples."""
  rate, samples = reader.header.rate, reader.samples
  end = args.end
  if not 0 <= args.start < samples / rate or (
    end is not None and not args.start < end < math.inf
  ):
    raise UserError(
      f"--start {args.start:g}{'' if end is None else f' --end {end:g}'} is not"
      f" a part of {reader.name}, which lasts {samples / rate:.2f} s."
    )
  first = min(samples - 1, round(args.start * rate))
  last = samples
  if end is not None and end < samples / rate:
    last = round(end * rate)
  return first, max(first + 1, last)
