"""`mmdcodec generate`: make music from a prompt."""

import argparse
import pathlib
from typing import Any

from mmdcodec import formatting, progress
from mmdcodec.errors import UserError

HELP = "make music from a prompt"
EXAMPLE = (
  'mmdcodec generate "calm piano, slow" calm.wav --model bundles/music'
  " --seconds 20\n"
  '  mmdcodec generate "the same with drums" more.wav --model bundles/music'
  " --continue calm.wav --seconds 30"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "prompt", metavar="PROMPT", help='what the music should be; "" for anything'
  )
  parser.add_argument("output", metavar="OUT", help="wav, flac or ogg file")
  parser.add_argument(
    "--model", required=True, help="music model: bundle or workdir"
  )
  parser.add_argument(
    "--seconds",
    type=float,
    default=8.0,
    metavar="S",
    help="length, including the audio of --continue (default: %(default)s)",
  )
  parser.add_argument(
    "--seed",
    type=int,
    default=0,
    metavar="N",
    help="random seed (default: %(default)s)",
  )
  parser.add_argument(
    "--count",
    type=int,
    default=1,
    metavar="N",
    help="pieces to make, each with the next seed: OUT-1, OUT-2, ...",
  )
  parser.add_argument(
    "--temperature",
    type=float,
    default=1.0,
    metavar="T",
    help="0 always takes the most likely code (default: %(default)s)",
  )
  parser.add_argument(
    "--top-k",
    type=int,
    default=250,
    metavar="K",
    help="sample from the K most likely codes; 0 for all (default:"
    " %(default)s)",
  )
  parser.add_argument(
    "--top-p",
    type=float,
    metavar="P",
    help="sample from the most likely codes whose probabilities sum to P",
  )
  parser.add_argument(
    "--guidance",
    type=float,
    default=3.0,
    metavar="G",
    help="weight of the prompt; 1 adds none and takes half the work (default:"
    " %(default)s)",
  )
  parser.add_argument(
    "--text-guidance",
    type=float,
    metavar="G",
    help="weight of the text beside --melody",
  )
  parser.add_argument(
    "--continue",
    dest="audio",
    metavar="AUDIO",
    help="continue this audio",
  )
  parser.add_argument(
    "--melody", metavar="AUDIO", help="use the melody of this audio"
  )
  parser.add_argument(
    "--stride",
    type=float,
    metavar="S",
    help="music longer than the model's window is made in windows that begin"
    " S seconds apart (default: 60 %% of a window)",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace what exists"
  )


def run(args: argparse.Namespace) -> int:
  """Generates one or more pieces."""
  from mmdcodec.audio import files
  from mmdcodec.cli import common

  if args.count < 1:
    raise UserError(f"--count is {args.count}; it must be at least 1.")
  if not args.output.lower().endswith(files.SUFFIXES):
    raise UserError(
      f"{args.output}: cannot tell the audio format; the name must end in one"
      f" of {' '.join(files.SUFFIXES)}."
    )
  targets = [
    common.check_output(path, force=args.force)
    for path in _targets(args.output, args.count)
  ]
  for path in (args.audio, args.melody):
    if path is not None:
      common.check_input(path)
  music = common.load_music(args.model)
  given: dict[str, Any] = {}
  for name in ("audio", "melody"):
    if (path := getattr(args, name)) is not None:
      x, rate = files.read(path)
      # Both need one rate: the model's.
      given[name] = files.resample(x, rate=rate, to=music.rate)
  show = progress.counter("frames")
  codes = music.generate_codes(
    [args.prompt] * args.count,
    seconds=args.seconds,
    seed=args.seed,
    temperature=args.temperature,
    top_k=args.top_k,
    top_p=args.top_p,
    guidance=args.guidance,
    text_guidance=args.text_guidance,
    stride=args.stride,
    progress=show,
    **given,
  )
  for path, each in zip(targets, codes, strict=True):
    y = music.codec.decode(each)[0]
    files.write(path, y, rate=music.rate)
    print(
      f"{path}: {formatting.duration(len(y) / music.rate)} at {music.rate} Hz,"
      f" seed {args.seed + targets.index(path)}"
    )
  return 0


def _targets(output: str, count: int) -> list[pathlib.Path]:
  """Returns OUT, or OUT-1 to OUT-count."""
  path = pathlib.Path(output)
  if count == 1:
    return [path]
  return [
    path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count)
  ]
