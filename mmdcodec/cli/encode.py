"""`mmdcodec encode`: an audio file becomes codes in a `.mmdc` file."""

from mmdcodec.errors import UserError

HELP = "code an audio file into a small .mmdc file"
EXAMPLE = "mmdcodec encode song.mp3 song.mmdc --model bundles/small"


def add_arguments(parser):
  """Adds the verb's arguments."""
  parser.add_argument(
    "input", metavar="IN", help="audio of any rate: wav flac ogg opus mp3 aiff"
  )
  parser.add_argument("output", metavar="OUT.mmdc")
  parser.add_argument(
    "--model", required=True, help="bundle, or workdir of a training run"
  )
  parser.add_argument(
    "--codebooks",
    type=int,
    metavar="N",
    help="keep the first N only: fewer bits, coarser sound",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace OUT.mmdc if it exists"
  )


def run(args):
  """Codes one file."""
  from mmdcodec import bitstream
  from mmdcodec.cli import common

  source, target = common.check_input(args.input), args.output
  if source.suffix.lower() == bitstream.SUFFIX:
    raise UserError(
      f"{source} is coded already; to get audio out of it: mmdcodec decode"
      f" {source} {target} --model {args.model}"
    )
  if not target.lower().endswith(bitstream.SUFFIX):
    raise UserError(
      f"{target}: the output of encode ends in {bitstream.SUFFIX}."
    )
  target = common.check_output(target, force=args.force)

  import numpy as np

  import mmdcodec

  codec = mmdcodec.load(args.model)
  x, line = common.read_audio(source, rate=codec.rate, channels=codec.channels)
  print(line)
  codes, scale = codec.encode(x, codebooks=args.codebooks, return_scale=True)
  stream = bitstream.Stream(
    codes=np.asarray(codes[0]),
    samples=len(x),
    rate=codec.rate,
    channels=codec.channels,
    codebook_size=codec.model.codebook_size,
    stride=codec.model.stride,
    model=codec.hash,
    scale=None if scale is None else np.asarray(scale[0]),
  )
  size = bitstream.write(target, stream)
  print(
    f"{target}: {len(stream.codes)} frames of {stream.codebooks} codes,"
    f" {stream.bits_per_second / 1000:.2f} kbps,"
    f" {common.bytes_text(size)} (was"
    f" {common.bytes_text(source.stat().st_size)})"
  )
