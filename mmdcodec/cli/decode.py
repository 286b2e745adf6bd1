"""`mmdcodec decode`: the codes of `.mmdc` files become audio again."""

import contextlib
import functools
import math
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmdcodec import formatting
from mmdcodec.errors import UserError

HELP = "make audio of .mmdc files"
EXAMPLE = (
  "mmdcodec decode song.mmdc song.wav --model bundles/small\n"
  "  mmdcodec decode song.mmdc part.flac --start 60 --end 75 --model"
  " bundles/small\n"
  "  mmdcodec decode coded/ music/ --format flac --model bundles/small"
)

# What is decoded before and after a part that is asked for, in seconds: a
# decoder remembers, and one that looks ahead must see.
_AROUND = 4.0


def add_arguments(parser):
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
    "--model", required=True, help="the bundle or workdir that coded it"
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
    help="second to begin with (what a codec with an LSTM remembers from longer"
    " before is left out: its part is close to that of the whole, not equal)",
  )
  parser.add_argument(
    "--end", type=float, metavar="S", help="second to stop before"
  )
  parser.add_argument(
    "--recover",
    action="store_true",
    help="take what is left of a damaged file; what is lost is silent",
  )
  parser.add_argument(
    "--format",
    default="wav",
    metavar="NAME",
    help="of the files made of a folder (default wav)",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace what exists"
  )


def run(args):
  """Decodes one file, or all of a folder."""
  from mmdcodec.audio import block_io, files
  from mmdcodec.cli import batch, common

  if args.rate is not None and not 1 <= args.rate <= files.MAX_RATE:
    raise UserError(f"--rate is {args.rate}; it is in Hz, such as 44100.")
  source, target = Path(args.input), args.output
  if args.input != batch.PIPE and source.is_dir():
    return _run_folder(args, source)
  if args.input != batch.PIPE:
    common.check_input(source)
  if target != batch.PIPE:
    _check_target(args, source)
    target = common.check_output(target, force=args.force)
  with contextlib.ExitStack() as stack:
    out, say = target, print
    if target == batch.PIPE:
      # The header of a wav tells its length: it can't be written in advance.
      folder = stack.enter_context(tempfile.TemporaryDirectory())
      out = Path(folder) / "stdout.wav"
      say = functools.partial(print, file=sys.stderr)
    file = source
    if args.input == batch.PIPE:
      file = stack.enter_context(block_io.spooled(sys.stdin.buffer))
    codes = stack.enter_context(opened(args, file))
    codec = common.load_codec(args.model)
    decode_file(args, codec, codes, out, say, show=True)
    if target == batch.PIPE:
      with open(out, "rb") as made:
        shutil.copyfileobj(made, sys.stdout.buffer)
  return 0


def _check_target(args, source: Path) -> None:
  """The output must be audio.

  Raises:
    UserError: it is not.
  """
  from mmdcodec import bitstream
  from mmdcodec.audio import files

  target = args.output
  suffix = Path(target).suffix.lower()
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


def _run_folder(args, folder: Path) -> int:
  from mmdcodec import bitstream
  from mmdcodec.audio import files
  from mmdcodec.bitstream import ecdc
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

  def work(source, target):
    with opened(args, source) as codes:
      decode_file(args, codec, codes, target)

  return batch.run(
    batch.plan(folder, found, out, suffix), work, force=args.force
  )


@contextlib.contextmanager
def opened(args, source) -> Iterator:
  """Opens a coded file.

  Args:
    args: of the command.
    source: path, or seekable file with a name.

  Yields:
    A `bitstream.Reader`.

  Raises:
    UserError: it cannot be read, is damaged, or holds no audio.
  """
  from mmdcodec import bitstream
  from mmdcodec.bitstream import ecdc
  from mmdcodec.cli import common

  with contextlib.ExitStack() as stack:
    suffix = getattr(source, "suffix", "").lower()
    if suffix == ecdc.SUFFIX or common.begins_with(source, ecdc.MAGIC):
      name = source.name if hasattr(source, "read") else str(source)
      reader = bitstream.Held(ecdc.read(source), name)
    else:
      reader = stack.enter_context(
        bitstream.opened(source, recover=args.recover)
      )
    if not reader.samples:
      raise UserError(f"{reader.name} holds no audio.")
    yield reader


def decode_file(args, codec, reader, target, say=None, *, show=False) -> None:
  """Decodes codes of any length in constant memory.

  Args:
    args: of the command.
    codec: the model.
    reader: of the codes.
    target: path of the audio.
    say: prints a line; None for silence.
    show: whether to show progress.

  Raises:
    UserError: another codec made the codes, they are damaged, or the target
      cannot be written.
  """
  from mmdcodec.audio import block_io
  from mmdcodec.cli import common

  reader = check_model(reader, codec, args.model)
  begin, end = _span(args, reader)
  seconds = (end - begin) // codec.rate
  progress = common.progress_line("seconds") if show and seconds else None
  with block_io.create(
    target, rate=codec.rate, channels=codec.channels, to=args.rate
  ) as writer:
    for x in part(codec, reader, begin, end):
      writer.write(x)
      if progress:
        progress(min(writer.samples // codec.rate, seconds), seconds)
  for words in reader.damage:
    print(f"{reader.name}: {words}", file=sys.stderr)
  if say:
    name = "stdout" if args.output == "-" else target
    duration = (end - begin) / codec.rate
    kbps = reader.header.raw_bits * reader.header.frame_rate / 1000
    say(
      f"{name}: {duration:.2f} s, {writer.rate} Hz,"
      f" {common.plural(codec.channels)}, from"
      f" {formatting.count(reader.header.codebooks, 'codebook', 'codebooks')}"
      f" ({kbps:.2f} kbps of raw codes)"
    )


def _span(args, reader) -> tuple[int, int]:
  """First and last sample that are asked for."""
  rate, samples = reader.header.rate, reader.samples
  end = args.end
  if not 0 <= args.start < samples / rate or (
    end is not None and not args.start < end < math.inf
  ):
    raise UserError(
      f"--start {args.start:g}{'' if end is None else f' --end {end:g}'} is no"
      f" part of {reader.name}, which lasts {samples / rate:.2f} s."
    )
  first = min(samples - 1, round(args.start * rate))
  last = samples
  if end is not None and end < samples / rate:
    last = round(end * rate)
  return first, max(first + 1, last)


def part(codec, reader, begin: int, end: int) -> Iterator:
  """Audio from one sample up to another, of a file of any length.

  Only the chunks around it are read. What the decoder remembers from before
  is `_AROUND` seconds long.

  Args:
    codec: the model.
    reader: of the codes.
    begin: first sample.
    end: sample to stop before.

  Yields:
    float32 [samples, channels].
  """
  from mmdcodec.tokenizers import piecewise as cuts

  header, samples = reader.header, reader.samples
  first, last, offset, length = 0, reader.frames, 0, samples
  if cuts.cuttable(codec.model) and (begin or end < samples):
    unit, hop = 1, header.stride
    around = int(_AROUND * header.frame_rate)
    if header.segment_frames:
      # Segments are coded on their own, and overlap with the next ones.
      unit, hop, around = header.segment_frames, header.segment_hop, 1
    first = max(0, begin // hop - around) * unit
    last = min(last, (-(-end // hop) + around) * unit)
    offset = first // unit * hop
    length = min(samples, -(-last // unit) * hop) - offset
  pieces = _pieces(reader, first, last)
  at = offset
  for x in codec.decode_blocks(pieces, length=length):
    x = _muted(x, at, reader)
    at, x = at + len(x), x[max(0, begin - at) : max(0, end - at)]
    if len(x):
      yield x
    if at >= end:
      return


def _pieces(reader, first: int, last: int) -> Iterable:
  """(codes, scale) as `decode_blocks` takes them."""
  whole = not reader.header.segment_frames
  for i, piece in enumerate(reader.pieces(first, last)):
    # The one scale of a whole clip stands in every chunk.
    yield piece.codes, None if whole and i else piece.scale


def _muted(x, at: int, reader):
  """Audio from sample `at` on, silent where codes were only filled in."""
  header = reader.header
  hop = header.stride
  if header.segment_frames:
    hop = header.segment_hop / header.segment_frames
  x = x.copy() if reader.lost else x
  for first, end in reader.lost:
    x[max(0, int(first * hop) - at) : max(0, int(end * hop) - at)] = 0
  return x


def check_model(reader, codec, model):
  """Makes sure that a codec made the codes.

  Args:
    reader: of the codes.
    codec: the model.
    model: its name, for messages.

  Returns:
    The reader; of a file of version 1, with the codec's segments.

  Raises:
    UserError: it was another one, and decoding would give noise; or the file
      says what no file of this codec says.
  """
  header, source = reader.header, reader.name
  if reader.version and header.model != codec.hash:
    raise UserError(
      f"{source} was made by model {header.model}, but {model} is"
      f" {codec.hash}; decode it with the model that made it (`mmdcodec info`"
      " shows the name of each)."
    )
  segments = 0, 0
  if codec.model.chunk is not None:
    size, hop = codec.model.chunk
    segments = -(-size // codec.stride), hop
    if reader.version == 1:
      reader = reader.in_segments(*segments)
      header = reader.header
  found = (
    (header.rate, header.channels, header.stride, header.codebook_size),
    (header.segment_frames, header.segment_hop),
    header.scaled,
  )
  wanted = (
    (codec.rate, codec.channels, codec.stride, codec.codebook_size),
    segments,
    codec.model.normalize,
  )
  if (
    found == wanted
    and header.codebooks <= codec.codebooks
    and _scales(reader) == header.scales(reader.frames)
    and reader.samples <= codec.model.samples_of(reader.frames)
  ):
    return reader
  if not reader.version:
    raise UserError(
      f"{source} was made by a codec of {header.rate} Hz with"
      f" {header.codebooks} x {header.codebook_size} codes; {model} is another"
      " one."
    )
  # The name covers the settings: a header that was tampered with.
  raise UserError(f"{source} is damaged: its header does not fit its model.")


def _scales(reader) -> int:
  """How many scales a file has; a chunk has as many as it must."""
  from mmdcodec import bitstream

  if not isinstance(reader, bitstream.Held):
    return reader.header.scales(reader.frames)
  scale = reader.read().scale
  return 0 if scale is None else len(scale)
