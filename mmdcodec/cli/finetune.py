"""`mmdcodec finetune`: train a music model further on a folder of audio.

Repeating the command continues an interrupted job.
"""

import argparse
import math
import shlex
from typing import Any

from mmdcodec.errors import UserError
from mmdcodec.store import paths

HELP = "train a music model further on your own audio and captions"
EXAMPLE = (
  "mmdcodec finetune ~/Music/mine runs/mine --model small_music\n"
  "  mmdcodec finetune loops runs/loops --model musicgen_small --lora 16"
  " --captions loops.csv --seconds 10"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "folder", metavar="FOLDER", help="audio of any rate, captions beside it"
  )
  parser.add_argument(
    "workdir",
    metavar="WORKDIR",
    help="everything goes here; the new model: WORKDIR/bundle",
  )
  parser.add_argument(
    "--model",
    required=True,
    help="music model: bundle or workdir, also of a MusicLM, or public weights"
    " of MusicGen",
  )
  parser.add_argument(
    "--captions",
    metavar="FILE",
    help="a table of captions as for `mmdcodec prepare`; without it, song.txt"
    " or song.json beside song.wav; a MusicLM needs none",
  )
  parser.add_argument(
    "--lora",
    type=int,
    default=0,
    metavar="RANK",
    help="train low-rank additions only, which takes less memory (default: the"
    " whole model)",
  )
  parser.add_argument(
    "--steps", type=int, default=500, metavar="N", help="default: %(default)s"
  )
  parser.add_argument(
    "--learning-rate",
    type=float,
    metavar="LR",
    help="default: 3e-05, with --lora 0.0003",
  )
  # The option's name in earlier versions.
  parser.add_argument(
    "--rate", type=float, dest="learning_rate", help=argparse.SUPPRESS
  )
  parser.add_argument(
    "--batch",
    type=int,
    metavar="N",
    help="clips in a step, over all devices (default: 8, or one for each"
    " device)",
  )
  parser.add_argument(
    "--seconds",
    type=float,
    metavar="S",
    help="length of a clip; shorter clips take less memory, and longer music is"
    " then made in windows of this length (default: the model's own, which is"
    " the most)",
  )
  parser.add_argument(
    "--force",
    action="store_true",
    help="do over what was made with other settings",
  )


def run(args: argparse.Namespace) -> int:
  """Runs the job; returns 75 if it was preempted."""
  check(args)
  from mmdcodec.audio import files
  from mmdcodec.cli import common
  from mmdcodec.data import audio_folder
  from mmdcodec.generation.musiclm import LoadedMusicLM
  from mmdcodec.store import jobs
  from mmdcodec.train import preemption
  from mmdcodec.workflows import finetune, finetune_job, finetune_musiclm

  folder = paths.on_disk(args.folder, "the audio").expanduser()
  if not folder.is_dir():
    raise UserError(f"{args.folder}: no such folder.")
  captions = None
  if args.captions is not None:
    captions = common.check_input(args.captions).resolve()
  workdir = paths.on_disk(args.workdir, "the folder of a job")
  workdir = workdir.expanduser().resolve()
  if not audio_folder.find(folder.resolve(), workdir):
    raise UserError(
      f"{args.folder} has no audio files; expected {' '.join(files.SUFFIXES)}."
    )
  music = common.load_generator(args.model)
  work: Any = finetune_job.make_job, finetune.make_stages
  tokens, example = workdir / "tokens" / "train", ""
  if isinstance(music, LoadedMusicLM):
    work = finetune_musiclm.make_job, finetune_musiclm.make_stages
    tokens, example = tokens / "codec", "calm piano"
  make_job, make_stages = work
  job = make_job(
    folder,
    workdir,
    model=args.model,
    music=music,
    options=finetune_job.Options(
      lora=args.lora,
      steps=args.steps,
      learning_rate=args.learning_rate,
      batch=args.batch,
      seconds=args.seconds,
    ),
    captions=captions,
  )
  texts = music.takes("text")
  # Its weights are on the device, which training needs.
  del music
  stages = make_stages(job)
  try:
    jobs.run_stages(job.workdir, stages, force=args.force)
  except preemption.Preempted:
    return preemption.EXIT_CODE
  bundle = job.workdir / "bundle"
  prompt = ""
  if texts:
    prompt = finetune.a_prompt(tokens) or example
  print(
    f"\nthe new model: {bundle}\n"
    f"try: mmdcodec generate {shlex.quote(prompt)} new.wav --model"
    f" {shlex.quote(str(bundle))} --seconds {job.seconds:g}",
    flush=True,
  )
  return 0


def check(args: argparse.Namespace) -> None:
  """Checks the numbers before anything is loaded.

  Raises:
    UserError: a number is out of bounds.
  """
  for name, least in (("lora", 0), ("steps", 1), ("batch", 1)):
    value = getattr(args, name)
    if value is not None and value < least:
      raise UserError(f"--{name} is {value}; it must be at least {least}.")
  for name in ("learning-rate", "seconds"):
    value = getattr(args, name.replace("-", "_"))
    if value is not None and not 0 < value < math.inf:
      raise UserError(f"--{name} is {value:g}; it must be above 0.")
