"""`mmdcodec evaluate musiclm`: does a MusicLM make what it is asked for?"""

import argparse
from typing import Any

from mmdcodec.errors import UserError

CLIPS = 32
INPUTS = {"audio": False, "tokens": False}


def load(path: str) -> Any:
  """Opens a MusicLM.

  Raises:
    UserError: it is another model.
  """
  from mmdcodec.cli import common

  music: Any = common.load_generator(path)
  if not hasattr(music, "parts"):
    raise UserError(
      f"{path} has one stage; `mmdcodec evaluate lm` measures such models."
    )
  return music


def run(args: argparse.Namespace, music: Any) -> None:
  """Measures, prints tables, and writes results to --out."""
  from mmdcodec import formatting, progress
  from mmdcodec.cli import common
  from mmdcodec.evaluate import musiclm, musiclm_report, token_sets

  if args.clips < 2:
    raise UserError(f"--clips is {args.clips}; expected at least 2 pieces.")
  if args.prompt is not None:
    music.check(args.prompt)
  if args.guidance is not None:
    music.check([""], guidance=args.guidance)
  if args.overlap is not None:
    music.check([""], overlap=args.overlap)
  only = None
  if args.only is not None:
    only = [name.strip() for name in args.only.split(",")]
  sets = token_sets.find(args.tokens) if args.tokens else []
  clips = common.read_clips(args, music)[0] if args.audio else []
  names = musiclm_report.choose(
    only, musiclm_report.possible(music, sets, clips)
  )

  def tell(name: str, found: Any) -> None:
    print(f"\n{found.table.title}\n")
    print(formatting.table(found.table.columns, found.table.rows))

  guidance = 1.0 if args.guidance is None else args.guidance
  setting = musiclm.Setting(
    music,
    args.clips,
    args.seconds,
    guidance=guidance,
    overlap=args.overlap,
    show=progress.counter,
  )
  found = musiclm_report.measure(
    setting, names, prompts=args.prompt, clips=clips, sets=sets, tell=tell
  )
  if args.out:
    kept = (
      "model", "audio", "tokens", "seconds", "clips", "prompt", "only",
      "guidance", "overlap",
    )  # fmt: skip
    about = {name: getattr(args, name) for name in kept}
    page = musiclm_report.write(found, args.out, about, music)
    print(f"\nresults and pieces: {args.out}\npage: {page}")
