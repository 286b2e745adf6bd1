"""`mmdcodec evaluate`: measure a model, with tables and plots.

The first word names the measure; the default is `reconstruction`. Each measure
is a module `evaluate_NAME` with `CLIPS`, the default number of clips, and
`run(args, model)`. It may have `load(path)`, which opens the model if that is
no codec, and `INPUTS`, the options for music that it takes, and whether it
needs them: {"audio": True} by default, nothing if it renders its own music.
"""

import argparse
import contextlib
import importlib

from mmdcodec.cli import common
from mmdcodec.errors import UserError
from mmdcodec.store import disk

HELP = "measure a codec, a tokenizer, an embedding or a music model"
EXAMPLE = (
  "mmdcodec evaluate reconstruction --model small --audio music/test"
  " --out results\n"
  "  mmdcodec evaluate dependence --model small --audio music/test"
  " --pattern delay\n"
  "  mmdcodec evaluate lm --model music --audio music/test --out"
  " results\n"
  "  mmdcodec evaluate semantic --model semantic --codec small"
  "\n  mmdcodec evaluate joint --model small_joint --audio music/test"
  "\n  mmdcodec evaluate melody --model melody"
  "\n  mmdcodec evaluate memorization --model small_musiclm --tokens"
  " data/tokens"
  "\n  mmdcodec evaluate musiclm --model small_musiclm --out results"
)
MEASURES = (
  "reconstruction",
  "dependence",
  "lm",
  "semantic",
  "joint",
  "melody",
  "memorization",
  "musiclm",
)
_CODECS = ("reconstruction", "dependence")
# Options of some measures only.
_ONLY = {
  "pattern": ("dependence",),
  "prompt": ("lm", "musiclm"),
  "codec": ("semantic",),
  "semantic": ("memorization",),
  "only": ("musiclm",),
  "guidance": ("musiclm",),
  "overlap": ("musiclm",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "measure",
    metavar="MEASURE",
    nargs="?",
    choices=MEASURES,
    default=MEASURES[0],
    help="reconstruction: how well a codec reconstructs (the default);"
    " dependence: of its codebooks; lm: how well a music model predicts music;"
    " semantic, joint, melody: what tokens and embeddings know of music;"
    " musiclm: what a MusicLM does; memorization: how often it repeats what it"
    " was trained on",
  )
  parser.add_argument(
    "--model",
    required=True,
    help="packaged model, bundle, or workdir of a training run",
  )
  parser.add_argument(
    "--audio",
    help="folder of audio, one file, or a data set; semantic and melody render"
    " their own music, but semantic can also tell the words of captions or tags"
    " of real music",
  )
  parser.add_argument(
    "--tokens",
    nargs="+",
    metavar="TOKENS",
    help="token data sets of the music, or folders of them as `mmdcodec"
    " tokenize` makes for several tokenizers: the training music for"
    " memorization, held-out music for musiclm",
  )
  parser.add_argument(
    "--out", metavar="DIR", help="write results, audio, plots and a page here"
  )
  parser.add_argument(
    "--seconds",
    type=float,
    default=10.0,
    help="length of a clip, from the middle of its file, and of a sample of lm"
    " (default: %(default)g)",
  )
  parser.add_argument(
    "--clips",
    type=int,
    help="the most clips, spread evenly over the files, or the songs that"
    " semantic and melody render, or the pieces that musiclm makes (default:"
    " 32; 200 for dependence, joint and melody; 240 for semantic; 256 for"
    " memorization)",
  )
  parser.add_argument(
    "--codebooks",
    type=int,
    metavar="N",
    help="use only the first N codebooks, for fewer bits",
  )
  parser.add_argument(
    "--pattern",
    help="measure dependence among the codes that one step of this pattern"
    " predicts: parallel, delay (default), coarse_first, or delays such as"
    " 0,1,1,1",
  )
  parser.add_argument(
    "--prompt",
    action="append",
    metavar="TEXT",
    help="prompt of a sample of lm, or of pieces of musiclm; may be repeated"
    " (default: captions of the clips)",
  )
  parser.add_argument(
    "--codec",
    metavar="BUNDLE",
    help="codec whose codes semantic compares with the tokens",
  )
  parser.add_argument(
    "--semantic",
    metavar="BUNDLE",
    help="tokenizer of a semantic stage by itself, for memorization",
  )
  parser.add_argument(
    "--only",
    metavar="NAME[,NAME]",
    help="what to measure of a MusicLM: consistency, story, melody, seams,"
    " drift, likelihood (of --tokens), oracle (of --audio) (default: all)",
  )
  parser.add_argument(
    "--guidance",
    type=float,
    help="weight of the prompts of musiclm (default: 1, none extra)",
  )
  parser.add_argument(
    "--overlap",
    type=float,
    metavar="S",
    help="seconds of codes that windows of musiclm's fine stage go on from, see"
    " `mmdcodec generate`",
  )
  parser.add_argument(
    "--force", action="store_true", help="replace the results in --out"
  )
  common.add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
  """Evaluates, prints tables, and writes results to --out."""
  common.quiet_processes(args)
  measure = importlib.import_module(f"mmdcodec.cli.evaluate_{args.measure}")
  args.clips = measure.CLIPS if args.clips is None else args.clips
  if args.seconds <= 0 or args.clips < 1:
    raise UserError("--seconds and --clips must be more than 0.")
  for name, only in _ONLY.items():
    if getattr(args, name) is not None and args.measure not in only:
      verbs = " or ".join(f"`mmdcodec evaluate {each}`" for each in only)
      raise UserError(f"--{name} goes with {verbs} only.")
  takes = getattr(measure, "INPUTS", {"audio": True})
  for name, what in (("audio", "folder or data set"), ("tokens", "data set")):
    given = getattr(args, name) is not None
    if given and not takes:
      raise UserError(f"{args.measure} renders its own music: omit --{name}.")
    if given and name not in takes:
      (other,) = takes
      raise UserError(f"{args.measure} takes --{other}: omit --{name}.")
    if takes.get(name) and not given:
      raise UserError(f"{args.measure} needs --{name}, a {what}.")
  if args.codebooks is not None and args.measure not in _CODECS:
    raise UserError(
      f"--codebooks is for codecs; {args.measure} needs them all."
    )
  with common.processes(args), common.one_voice(args) as first:
    from mmdcodec.evaluate import result_folder
    from mmdcodec.parallel import shares

    args.out = args.out if first else None
    with shares.together("folder"):
      if args.out:
        result_folder.check(args.out, force=args.force)
    model = getattr(measure, "load", common.load_codec)(args.model)
    with disk.named(args.out) if args.out else contextlib.nullcontext():
      measure.run(args, model)
  return 0
