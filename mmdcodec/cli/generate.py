"""`mmdcodec generate`: make music from a prompt."""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

from mmdcodec import formatting, progress
from mmdcodec.cli import common
from mmdcodec.errors import UserError
from mmdcodec.store import paths

HELP = "make music from a prompt"
EXAMPLE = (
  'mmdcodec generate "a fast tune with drums" tune.wav --model small_music\n'
  '  mmdcodec generate "the same" more.wav --model small_music'
  " --continue tune.wav --seconds 12\n"
  '  mmdcodec generate "slow piano" piano.wav --model small_musiclm'
  " --melody tune.wav\n"
  '  mmdcodec generate "" story.wav --model small_musiclm --story story.txt'
  " --seconds 60"
)
# Options that only one of the two kinds of models has.
_OF_HIERARCHIES = ("story", "best_of", "overlap")
_OF_ONE_STAGE = ("text_guidance",)
# Values for a music model of one stage; a hierarchy has its own.
_DEFAULTS: dict[str, Any] = dict(temperature=1.0, top_k=250, guidance=3.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "prompt", metavar="PROMPT", help='what the music should be; "" for anything'
  )
  parser.add_argument(
    "output",
    metavar="OUT",
    help="audio file (.wav .flac .ogg .opus .mp3 .aiff)",
  )
  parser.add_argument(
    "--model",
    required=True,
    help="music model: packaged (small_music, small_musiclm), bundle or"
    " workdir",
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
    help="pieces to make, each with the next seed: OUT-1, OUT-2, ...; several"
    " processes share them",
  )
  parser.add_argument(
    "--temperature",
    type=_by_stage(float),
    metavar="T",
    help="0 always takes the most likely code (default: 1; for MusicLM by"
    " stage: semantic=1,coarse=0.95,fine=0.4)",
  )
  parser.add_argument(
    "--top-k",
    type=_by_stage(int),
    metavar="K",
    help="sample from the K most likely codes; 0 for all (default: 250; for"
    " MusicLM 0)",
  )
  parser.add_argument(
    "--top-p",
    type=_by_stage(float),
    metavar="P",
    help="sample from the most likely codes whose probabilities sum to P",
  )
  parser.add_argument(
    "--guidance",
    type=_by_stage(float),
    metavar="G",
    help="weight of the prompt; 1 adds none and takes half the work (default:"
    " 3; for MusicLM 1)",
  )
  parser.add_argument(
    "--story",
    metavar="FILE",
    help='prompts by time, in lines such as "0:15 with drums", with "" for'
    " PROMPT (MusicLM)",
  )
  parser.add_argument(
    "--best-of",
    type=int,
    metavar="N",
    help="make N pieces and keep the one nearest to the prompt (MusicLM)",
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
    " S seconds apart (default: 60 %% of a window; for MusicLM 50 %%)",
  )
  parser.add_argument(
    "--overlap",
    type=float,
    metavar="S",
    help="seconds of codes that each window of the fine stage goes on from; 0"
    " makes independent chunks, many at once, with seams (MusicLM; default:"
    " 0.5, or a quarter of a window)",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace what exists"
  )
  common.add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
  """Generates one or more pieces, each in one of the processes."""
  common.quiet_processes(args)
  with common.processes(args), common.one_voice(args):
    return _generate(args)


def _generate(args: argparse.Namespace) -> int:
  """Generates the pieces of this process; the first one prints all."""
  from mmdcodec.audio import files
  from mmdcodec.generation.musiclm import LoadedMusicLM
  from mmdcodec.parallel import agreement, shares

  if args.count < 1:
    raise UserError(f"--count is {args.count}; it must be at least 1.")
  if not args.output.lower().endswith(files.SUFFIXES):
    raise UserError(
      f"{args.output}: cannot tell the audio format; the name must end in one"
      f" of {' '.join(files.SUFFIXES)}."
    )
  # Before any process writes one of them.
  with shares.together("targets"):
    targets = [
      common.check_output(path, force=args.force)
      for path in _targets(args.output, args.count)
    ]
  agreement.check_shared(paths.real(targets[0]).parent)
  for path in (args.audio, args.melody, args.story):
    if path is not None:
      common.check_input(path)
  music: Any = common.load_generator(args.model)
  given = _options(args, hierarchy=isinstance(music, LoadedMusicLM))
  for name in ("audio", "melody"):
    if (path := getattr(args, name)) is not None:
      x, rate = files.read(path)
      # Both need one rate: the model's.
      given[name] = files.resample(x, rate=rate, to=music.rate)
  mine, codes = shares.mine(args.count), []
  lines: dict[int, str] = {}
  with shares.together("pieces"):
    if mine:
      codes = music.generate_codes(
        [args.prompt] * len(mine),
        seconds=args.seconds,
        seed=[args.seed + i for i in mine],
        **given,
      )
    for i, each in zip(mine, codes, strict=True):
      y = music.codec.decode(each)[0]
      files.write(targets[i], y, rate=music.rate)
      lines[i] = (
        f"{targets[i]}: {formatting.duration(len(y) / music.rate)} at"
        f" {music.rate} Hz, seed {args.seed + i}"
      )
  for theirs in shares.gather(lines):
    lines |= theirs
  for _, line in sorted(lines.items()):
    print(line)
  return 0


def _by_stage(kind: Callable[[str], Any]) -> Callable[[str], Any]:
  """Returns a parser of a number, or of STAGE=NUMBER,STAGE=NUMBER,..."""

  def parse(text: str) -> Any:
    if "=" not in text:
      return kind(text)
    pairs = [each.split("=", 1) for each in text.split(",")]
    return {stage.strip(): kind(value) for stage, value in pairs}

  parse.__name__ = kind.__name__
  return parse


def _options(args: argparse.Namespace, *, hierarchy: bool) -> dict[str, Any]:
  """Options of `generate_codes` of either kind of model.

  Raises:
    UserError: an option is for the other kind.
  """
  from mmdcodec.generation.story import read_story
  from mmdcodec.store import inputs

  names = ("top_p", "stride", *_DEFAULTS, *_OF_HIERARCHIES, *_OF_ONE_STAGE)
  given = {name: getattr(args, name) for name in names}
  given = {name: value for name, value in given.items() if value is not None}
  wrong = _OF_ONE_STAGE if hierarchy else _OF_HIERARCHIES
  for name, value in given.items():
    option = f"--{name.replace('_', '-')}"
    if name in wrong:
      kind = "a music model of one stage" if hierarchy else "a MusicLM"
      raise UserError(f"{option} is for {kind}, which {args.model} is not.")
    if isinstance(value, dict) and not hierarchy:
      raise UserError(
        f"{option} is given by stage, but {args.model} has one stage; give a"
        " number."
      )
  if not hierarchy:
    show = progress.counter("frames")
    return {**_DEFAULTS, **given, "progress": show}
  if args.story is not None:
    given["story"] = read_story(inputs.read_text(args.story), args.story)
  return {**given, "progress": _show_stages()}


def _show_stages() -> Callable[[str, int, int], None]:
  """Returns a function that shows the progress of each stage."""
  lines: dict[str, Callable[[int, int], None]] = {}

  def show(stage: str, done: int, total: int) -> None:
    if stage not in lines:
      lines[stage] = progress.counter(f"{stage} frames")
    lines[stage](done, total)

  return show


def _targets(output: str, count: int) -> list[pathlib.Path]:
  """Returns OUT, or OUT-1 to OUT-count."""
  path = paths.of(output)
  if count == 1:
    return [path]
  return [
    path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count)
  ]
