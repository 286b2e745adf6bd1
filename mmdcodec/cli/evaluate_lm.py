"""`mmdcodec evaluate lm`: measure how well a music model predicts music."""

import argparse
from typing import TYPE_CHECKING

from mmdcodec.errors import UserError

if TYPE_CHECKING:
  from mmdcodec.generation.musicgen import LoadedMusic

CLIPS = 32


def load(path: str) -> "LoadedMusic":
  """Opens a music model."""
  from mmdcodec.cli import common

  return common.load_music(path)


def run(args: argparse.Namespace, music: "LoadedMusic") -> None:
  """Measures, prints tables, and writes results to --out."""
  from mmdcodec import formatting
  from mmdcodec.cli import common
  from mmdcodec.evaluate import likelihood_report as report

  check_prompts(args, music)
  clips, about = common.read_clips(args, music)
  about["prompt"] = args.prompt or []
  result = report.measure(music, clips, about)
  print(f"{result.head}\n")
  print(formatting.table(*report.measures_table(result)) + "\n")
  print(formatting.table(*report.codebooks_table(result)))
  if args.out:
    samples = report.make_samples(
      music, clips, prompts=args.prompt, seconds=args.seconds
    )
    page = report.write(result, samples, args.out)
    print(f"\nresults, samples and plots: {args.out}\npage: {page}")


def check_prompts(args: argparse.Namespace, music: "LoadedMusic") -> None:
  """Checks that samples can be made from the prompts, before work begins.

  Raises:
    UserError: they cannot.
  """
  import jax

  if args.prompt is None:
    return
  # Of several processes, the first one makes them.
  if not args.out and jax.process_index() == 0:
    raise UserError("--prompt makes samples: say with --out where they go.")
  if not music.takes("text"):
    raise UserError(f"{args.model} takes no text, so no --prompt.")
  music.check(args.prompt)
