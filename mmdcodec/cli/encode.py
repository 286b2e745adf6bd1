"""`mmdcodec encode`: audio becomes codes in `.mmdc` files."""

import contextlib
import functools
import sys
from pathlib import Path

from mmdcodec import formatting
from mmdcodec.errors import UserError

HELP = "code audio into small .mmdc files"
EXAMPLE = (
  "mmdcodec encode song.mp3 song.mmdc --model bundles/small\n"
  "  mmdcodec encode music/ coded/ --model bundles/small\n"
  "  mmdcodec encode song.mmdc smaller.mmdc --codebooks 2"
)


_DAY = 86_400


def add_arguments(parser):
  """Adds the verb's arguments."""
  parser.add_argument(
    "input",
    metavar="IN",
    help="audio of any rate (wav flac ogg opus mp3 aiff), a folder of it, or a"
    " .mmdc file that is to have fewer codebooks or another coding; - for"
    " stdin",
  )
  parser.add_argument(
    "output", metavar="OUT", help=".mmdc file, folder, or - for stdout"
  )
  parser.add_argument(
    "--model", help="bundle, or workdir of a training run (not for a .mmdc IN)"
  )
  parser.add_argument(
    "--codebooks",
    type=int,
    metavar="N",
    help="keep the first N only: fewer bits, coarser sound",
  )
  parser.add_argument(
    "--coding",
    choices=("raw", "adaptive", "conditional"),
    help="how codes become bits: packed, by how often each occurs, or also by"
    " the codes around it (default conditional; a .mmdc IN keeps its own)",
  )
  parser.add_argument(
    "--chunk",
    type=float,
    metavar="S",
    help="seconds that decode by themselves: longer chunks are smaller, and"
    " lose more when damaged (default 30)",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace what exists"
  )


def run(args):
  """Codes one file, or all of a folder."""
  from mmdcodec import bitstream
  from mmdcodec.cli import batch, common

  if args.chunk is not None and not 0 < args.chunk <= _DAY:
    raise UserError(
      f"--chunk is {args.chunk}; it is in seconds, such as 30, and at most"
      f" {_DAY} (a day)."
    )
  source, target = Path(args.input), args.output
  if args.input != batch.PIPE and source.is_dir():
    return _run_folder(args, source)
  if args.input != batch.PIPE:
    common.check_input(source)
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
      out = sys.stdout.buffer
    say = functools.partial(
      print, file=sys.stderr if target == batch.PIPE else sys.stdout
    )
    if _coded(file):
      _recode(args, file, out, say)
    else:
      encode_file(args, _model(args), file, out, say, show=True)
  return 0


def _coded(source) -> bool:
  """Whether a path or stdin is coded already, or called so."""
  from mmdcodec import bitstream
  from mmdcodec.cli import common

  suffix = getattr(source, "suffix", "").lower()
  return suffix == bitstream.SUFFIX or common.begins_with(
    source, bitstream.MAGIC
  )


def _stdin(stack):
  from mmdcodec.audio import block_io

  return stack.enter_context(block_io.spooled(sys.stdin.buffer))


def _model(args):
  from mmdcodec.cli import common

  if args.model is None:
    raise UserError("give --model: the bundle or workdir that is to code.")
  return common.load_codec(args.model)


def _run_folder(args, folder: Path) -> int:
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


def encode_file(args, codec, source, target, say=None, *, show=False) -> None:
  """Codes audio of any length in constant memory.

  Args:
    args: of the command.
    codec: the model.
    source: path or seekable file of audio.
    target: path or binary file.
    say: prints a line; None for silence.
    show: whether to show progress.

  Raises:
    UserError: the audio cannot be read, or the target not be written.
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
  if say:
    name = "stdout" if hasattr(target, "write") else target
    say(_result(name, writer, count.samples, was))


class _Count:
  """Blocks of audio, counted as they go by, with progress on stderr."""

  def __init__(self, parts, rate: int, seconds: int):
    from mmdcodec.cli import common

    self.samples, self._parts, self._rate = 0, parts, rate
    self._seconds = seconds
    self._show = common.progress_line("seconds") if seconds else None

  def __iter__(self):
    for x in self._parts:
      yield x
      self.samples += len(x)
      if self._show:
        done = min(self.samples // self._rate, self._seconds)
        self._show(done, self._seconds)


def _result(name, writer, samples: int, was: int | None) -> str:
  """What was written, and at which bit rate beside that of raw codes."""
  from mmdcodec.cli import common

  header = writer.header
  seconds = max(samples, 1) / header.rate
  raw = header.raw_bits * writer.frames / seconds
  words = (
    f"{name}: {formatting.count(writer.frames, 'frame', 'frames')} of"
    f" {formatting.count(header.codebooks, 'code', 'codes')},"
    f" {8 * writer.bytes / seconds / 1000:.2f} kbps in all"
    f" ({raw / 1000:.2f} kbps of codes packed raw; coding {header.coding}),"
    f" {common.bytes_text(writer.bytes)}"
  )
  return words + (f" (was {common.bytes_text(was)})" if was else "")


def _size(source) -> int | None:
  """Bytes of a path that may be written over; None of a pipe."""
  return source.stat().st_size if isinstance(source, Path) else None


def _recode(args, source, target, say) -> None:
  """A coded file with fewer codebooks or another coding; no model is needed."""
  from mmdcodec import bitstream
  from mmdcodec.cli import common

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
    f" {8 * size / seconds / 1000:.2f} kbps, {common.bytes_text(size)}"
  )
  say(words + (f" (was {common.bytes_text(was)})" if was else ""))
