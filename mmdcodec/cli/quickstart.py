"""`mmdcodec quickstart`: train a codec and a music model, and write a report.

Repeating the command continues an interrupted job.
"""

import argparse
import shlex

HELP = "train a codec and a music model on built-in or your own music"
EXAMPLE = (
  "mmdcodec quickstart --workdir quickstart --audio ~/Music\n"
  "  mmdcodec quickstart --system musiclm"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "--workdir",
    default="mmdcodec-quickstart",
    metavar="DIR",
    help="everything goes here (default: %(default)s)",
  )
  parser.add_argument(
    "--system",
    choices=("musicgen", "musiclm"),
    default="musicgen",
    help="one language model of all codebooks, or the hierarchy of MusicLM,"
    " which goes on from the codec in --workdir if there is one (default:"
    " %(default)s)",
  )
  parser.add_argument(
    "--audio",
    metavar="FOLDER",
    help="train on this music instead; some of its files are held out",
  )
  parser.add_argument(
    "--steps",
    type=int,
    metavar="N",
    help="training steps of each model; more is better",
  )
  parser.add_argument(
    "--from-scratch",
    action="store_true",
    help="train smaller models from nothing, instead of those that ship with"
    " the package further",
  )
  parser.add_argument(
    "--tiny",
    action="store_true",
    help="seconds of music and few steps from nothing, only to see that"
    " everything runs",
  )
  parser.add_argument(
    "--force",
    action="store_true",
    help="do over what was made with other settings",
  )


def run(args: argparse.Namespace) -> int:
  """Runs the job; returns 75 if it was preempted."""
  from mmdcodec import formatting
  from mmdcodec.store import jobs
  from mmdcodec.train import preemption
  from mmdcodec.workflows import quickstart, quickstart_report
  from mmdcodec.workflows.quickstart_job import make_job

  if args.system == "musiclm":
    return run_musiclm(args)
  job = make_job(
    args.workdir,
    audio=args.audio,
    steps=args.steps,
    tiny=args.tiny,
    from_scratch=args.from_scratch,
  )
  if not args.force:
    quickstart.check_version(job)
  stages = quickstart.make_stages(job)
  try:
    seconds = jobs.run_stages(job.workdir, stages, force=args.force)
  except preemption.Preempted:
    return preemption.EXIT_CODE
  print(
    f"\n{quickstart_report.as_text(job)}\n\n"
    f"all done in {formatting.duration(seconds)} of work.\n"
    f"report: {job.workdir / 'report.html'}\n"
    "try: mmdcodec encode YOUR.mp3 your.mmdc --model"
    f" {shlex.quote(str(job.workdir / 'bundle'))}\n"
    'and: mmdcodec generate "a fast tune with drums" tune.wav --model'
    f" {shlex.quote(str(job.workdir / 'music_bundle'))}",
    flush=True,
  )
  return 0


def run_musiclm(args: argparse.Namespace) -> int:
  """Runs the job of the hierarchy; returns 75 if it was preempted."""
  from mmdcodec import formatting
  from mmdcodec.store import jobs
  from mmdcodec.train import preemption
  from mmdcodec.workflows import (
    quickstart,
    quickstart_musiclm,
    quickstart_musiclm_report,
  )
  from mmdcodec.workflows.quickstart_musiclm_job import make_job

  job = make_job(
    args.workdir,
    audio=args.audio,
    steps=args.steps,
    tiny=args.tiny,
    from_scratch=args.from_scratch,
  )
  if not args.force:
    quickstart.check_version(job.codec)
  stages = quickstart_musiclm.make_stages(job)
  try:
    seconds = jobs.run_stages(job.workdir, stages, force=args.force)
  except preemption.Preempted:
    return preemption.EXIT_CODE
  print(
    f"\n{quickstart_musiclm_report.as_text(job)}\n\n"
    f"all done in {formatting.duration(seconds)} of work.\n"
    f"report: {job.folder / 'report.html'}\n"
    'try: mmdcodec generate "a fast tune with drums" tune.wav --model'
    f" {shlex.quote(str(job.folder / 'bundle'))}",
    flush=True,
  )
  return 0
