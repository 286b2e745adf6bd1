"""`mmdcodec encode`: encode audio as `.mmdc` files of codes."""

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmdcodec import formatting, progress
from mmdcodec.cli import streams
from mmdcodec.errors import UserError
from mmdcodec.store import paths

HELP = "encode audio as small .mmdc files"
EXAMPLE = (
  "mmdcodec encode song.mp3 song.mmdc --model small\n"
  "  mmdcodec encode music/ coded/ --model small\n"
  "  mmdcodec encode song.mmdc smaller.mmdc --codebooks 2"
)


_DAY = 86_400


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "input",
    metavar="IN",
    help="audio of any rate (wav flac ogg opus mp3 aiff ...), a folder of it,"
    " or a .mmdc file to give fewer codebooks or another coding; - for stdin",
  )
  parser.add_argument(
    "output", metavar="OUT", help=".mmdc file, folder, or - for stdout"
  )
  parser.add_argument(
    "--model",
    help="packaged model (small), bundle, or workdir of a training run (not for"
    " a .mmdc IN)",
  )
  parser.add_argument(
    "--codebooks",
    type=int,
    metavar="N",
    help="keep only the first N: fewer bits, coarser sound",
  )
  parser.add_argument(
    "--coding",
    choices=("raw", "adaptive", "conditional"),
    help="how codes become bits: packed, by the frequency of each code, or also"
    " by the codes around it (default conditional; a .mmdc IN keeps its own)",
  )
  parser.add_argument(
    "--chunk",
    type=float,
    metavar="S",
    help="length of a chunk, which decodes by itself: longer chunks make"
    " smaller files and lose more when damaged (default 30)",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace what exists"
  )


def run(args: argparse.Namespace) -> int:
  """Encodes one file or all files of a folder."""
  from mmdcodec import bitstream
  from mmdcodec.cli import batch, common

  if args.chunk is not None and not 0 < args.chunk <= _DAY:
    raise UserError(
      f"--chunk is {args.chunk}; it is in seconds, such as 30, and at most"
      f" {_DAY} (a day)."
    )
  source, target = paths.of(args.input), args.output
  if args.input != batch.PIPE and source.is_dir():
    return _run_folder(args, source)
  if args.input != batch.PIPE:
    common.check_input(source, stdin=True)
  if target != batch.PIPE:
    coded = args.input != batch.PIPE and _coded(source)
    if not target.lower().endswith(bitstream.SUFFIX):
      advice = (
        f"{source} is coded already; to get audio out of it: mmdcodec decode"
        f" {source} {target} --model MODEL"
        if coded
        else f"{target}: the output of encode ends in {bitstream.SUFFIX}."
      )
      raise UserError(advice)
    target = common.check_output(target, force=args.force)
  with contextlib.ExitStack() as stack:
    file, out = source, target
    if args.input == batch.PIPE:
      file = _stdin(stack)
    if target == batch.PIPE:
      out = streams.stdout()
    say = functools.partial(
      print, file=sys.stderr if target == batch.PIPE else sys.stdout
    )
    if _coded(file):
      _recode(args, file, out, say)
    else:
      encode_file(args, _model(args), file, out, say, show=True)
  return 0


def _coded(source: Path | BinaryIO) -> bool:
  """Whether a path or stdin is coded already, by its name or contents."""
  from mmdcodec import bitstream
  from mmdcodec.bitstream import decoding

  suffix = getattr(source, "suffix", "").lower()
  return suffix == bitstream.SUFFIX or decoding.begins_with(
    source, bitstream.MAGIC
  )


def _stdin(stack: contextlib.ExitStack) -> Any:
  """Returns stdin as a seekable file."""
  from mmdcodec.audio import block_io

  return stack.enter_context(block_io.spooled(streams.stdin()))


def _model(args: argparse.Namespace) -> Any:
  """Loads the codec of the command line."""
  from mmdcodec.cli import common

  if args.model is None:
    raise UserError("give --model: the bundle or workdir to encode with.")
  return common.load_codec(args.model)


def _run_folder(args: argparse.Namespace, folder: Path) -> int:
  """Encodes all files of a folder."""
  from mmdcodec import bitstream
  from mmdcodec.audio import files
  from mmdcodec.cli import batch

  out = batch.check_folders(folder, args.output, (bitstream.SUFFIX,))
  found = files.find(folder)
  if not found:
    raise UserError(f"{folder} holds no audio ({' '.join(files.SUFFIXES)}).")
  codec = _model(args)
  most = codec.codebooks
  if args.codebooks is not None and not 1 <= args.codebooks <= most:
    raise UserError(
      f"--codebooks is {args.codebooks}; {args.model} has 1 to {most}."
    )
  return batch.run(
    batch.plan(folder, found, out, bitstream.SUFFIX),
    lambda source, target: encode_file(args, codec, source, target),
    force=args.force,
  )


def encode_file(
  args: argparse.Namespace,
  codec: Any,
  source: Path | BinaryIO,
  target: Path | BinaryIO,
  say: Callable[[str], None] | None = None,
  *,
  show: bool = False,
) -> None:
  """Encodes audio of any length in constant memory.

  Args:
    args: arguments of the command.
    codec: the model.
    source: path or seekable file of audio.
    target: path or binary file.
    say: prints a line; None to print nothing.
    show: whether to show progress.

  Raises:
    UserError: the audio cannot be read or the target cannot be written.
  """
  from mmdcodec import bitstream
  from mmdcodec.audio import block_io
  from mmdcodec.cli import common

  was = _size(source)
  with block_io.read(source, rate=codec.rate, channels=codec.channels) as (
    info,
    parts,
  ):
    if say:
      say(common.audio_line(source, info, codec))
    total = int(info.seconds)
    count = _Count(parts, codec.rate, total if show else 0)
    pieces = codec.encode_blocks(count, codebooks=args.codebooks)
    header = bitstream.header_for(
      codec,
      codebooks=args.codebooks,
      coding=args.coding or "conditional",
      seconds=args.chunk or bitstream.CHUNK_SECONDS,
    )
    with bitstream.create(target, header) as writer:
      for codes, scale in pieces:
        writer.add(codes, scale)
      writer.close(count.samples)
    parts.levels.tell(parts.name)
  if say:
    name = "stdout" if hasattr(target, "write") else target
    say(_result(name, writer, count.samples, was))


class _Count:
  """Passes blocks of audio on, counting samples and showing progress."""

  def __init__(
    self, parts: Iterable[np.ndarray], rate: int, seconds: int
  ) -> None:

    self.samples, self._parts, self._rate = 0, parts, rate
    self._seconds = seconds
    self._show = progress.counter("seconds") if seconds else None

  def __iter__(self) -> Iterator[np.ndarray]:
    for x in self._parts:
      yield x
      self.samples += len(x)
      if self._show:
        done = min(self.samples // self._rate, self._seconds)
        self._show(done, self._seconds)


def _result(name: Any, writer: Any, samples: int, was: int | None) -> str:
  """Describes the output and its bit rate compared with raw codes."""
  header = writer.header
  seconds = max(samples, 1) / header.rate
  raw = header.raw_bits * writer.frames / seconds
  words = (
    f"{name}: {formatting.count(writer.frames, 'frame', 'frames')} of"
    f" {formatting.count(header.codebooks, 'code', 'codes')},"
    f" {8 * writer.bytes / seconds / 1000:.2f} kbps in all"
    f" ({raw / 1000:.2f} kbps of codes packed raw; coding {header.coding}),"
    f" {formatting.file_size(writer.bytes)}"
  )
  return words + (f" (was {formatting.file_size(was)})" if was else "")


def _size(source: Path | BinaryIO) -> int | None:
  """Returns the size of a file, which may get overwritten; None for a pipe."""
  return source.stat().st_size if isinstance(source, Path) else None


def _recode(
  args: argparse.Namespace,
  source: Path | BinaryIO,
  target: Path | BinaryIO,
  say: Callable[[str], None],
) -> None:
  """Drops codebooks of a coded file or changes its coding, without a model."""
  from mmdcodec import bitstream

  if args.chunk and not args.coding:
    raise UserError("--chunk of a coded file goes with --coding.")
  name = source if isinstance(source, Path) else source.name
  if not args.coding and args.codebooks is None:
    raise UserError(
      f"{name} is coded already: give --codebooks or --coding to change it."
    )
  was = _size(source)
  with bitstream.opened(source) as reader:
    codebooks = args.codebooks
    if codebooks is None:
      codebooks = reader.header.codebooks
    if args.coding:
      size = bitstream.recode(
        reader, target, codebooks, coding=args.coding, seconds=args.chunk
      )
    else:
      size = bitstream.drop_codebooks(reader, target, codebooks)
    seconds = max(reader.samples, 1) / reader.header.rate
  name = "stdout" if hasattr(target, "write") else target
  words = (
    f"{name}: {formatting.count(codebooks, 'codebook', 'codebooks')},"
    f" {8 * size / seconds / 1000:.2f} kbps, {formatting.file_size(size)}"
  )
  say(words + (f" (was {formatting.file_size(was)})" if was else ""))
