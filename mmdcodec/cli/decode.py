"""`mmdcodec decode`: the codes of a `.mmdc` file become audio again."""

from mmdcodec.errors import UserError

HELP = "make audio of a .mmdc file"
EXAMPLE = "mmdcodec decode song.mmdc song.wav --model bundles/small"


def add_arguments(parser):
  """Adds the verb's arguments."""
  parser.add_argument("input", metavar="IN.mmdc")
  parser.add_argument(
    "output", metavar="OUT", help="audio file: .wav .flac .ogg .opus .mp3 .aiff"
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
    "--force", action="store_true", help="replace OUT if it exists"
  )


def run(args):
  """Decodes one file."""
  from mmdcodec import bitstream
  from mmdcodec.audio import files
  from mmdcodec.cli import common

  source, target = common.check_input(args.input), args.output
  suffix = f".{target.lower().rpartition('.')[2]}"
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
  if args.rate is not None and not 1 <= args.rate <= files.MAX_RATE:
    raise UserError(f"--rate is {args.rate}; it is in Hz, such as 44100.")
  target = common.check_output(target, force=args.force)
  stream = bitstream.read(source)
  if not stream.samples:
    raise UserError(f"{source} holds no audio.")

  import numpy as np

  import mmdcodec

  codec = mmdcodec.load(args.model)
  check_model(stream, codec, source, args.model)
  scale = None if stream.scale is None else stream.scale[None]
  x = codec.decode(stream.codes, scale=scale, length=stream.samples)
  x = np.asarray(x[0])
  rate = args.rate or codec.rate
  if rate != codec.rate:
    x = files.resample(x, rate=codec.rate, to=rate)
  # Some formats know few rates: what was written may be another one.
  written = files.write(target, x, rate=rate) or rate
  print(
    f"{target}: {len(x) / rate:.2f} s, {written} Hz,"
    f" {common.plural(x.shape[1])}, from {stream.codebooks} codebooks"
    f" ({stream.bits_per_second / 1000:.2f} kbps)"
  )


def check_model(stream, codec, source, model) -> None:
  """Makes sure that a codec made the stream.

  Raises:
    UserError: it was another one; decoding would give noise.
  """
  if stream.model != codec.hash:
    raise UserError(
      f"{source} was made by model {stream.model}, but {model} is"
      f" {codec.hash}; decode it with the model that made it (`mmdcodec info`"
      " shows the name of each)."
    )
  # The name covers the settings; this catches a header that was tampered with.
  found = (stream.rate, stream.channels, stream.stride, stream.codebook_size)
  wanted = (codec.rate, codec.channels, codec.model.stride)
  if found != (*wanted, codec.model.codebook_size) or (
    stream.codebooks > codec.codebooks
  ):
    raise UserError(f"{source} is damaged: its header does not fit its model.")
