"""`mmdcodec evaluate dependence`: measure dependence between codebooks."""

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmdcodec.errors import UserError

if TYPE_CHECKING:
  from mmdcodec.patterns import Pattern

CLIPS = 200


def run(args: argparse.Namespace, codec: Any) -> None:
  """Measures, prints tables, and writes results to --out."""
  from mmdcodec import formatting
  from mmdcodec.cli import common
  from mmdcodec.evaluate import dependence_report

  books = codec.codebooks if args.codebooks is None else args.codebooks
  if not 1 <= books <= codec.codebooks:
    raise UserError(
      f"--codebooks is {books}; this codec has 1 to {codec.codebooks}."
    )
  if books < 2:
    raise UserError("dependence is between codebooks; this needs two or more.")
  name = args.pattern or "delay"
  pattern = parse_pattern(name, books)
  clips, about = common.read_clips(args, codec)
  found = dependence_report.measure(codec, clips, used=books, pattern=pattern)
  seconds = sum(len(clip.audio) for clip in clips) / codec.rate
  head = f"{len(clips)} clips, {seconds:.0f} s, {found.frames:,} frames"
  rate = codec.frame_rate
  measures = dependence_report.measures_table(found, name, rate)
  print(head + "\n")
  print(formatting.table(*measures) + "\n")
  print(formatting.table(*dependence_report.codebooks_table(found, name)))
  for warning in found.warnings:
    print(f"\nwarning: {warning}")
  if args.out:
    about.update(codebooks=books, pattern=name, hash=codec.hash)
    page = dependence_report.write(
      found, args.out, about, head=head, frame_rate=rate
    )
    print(f"\nresults and plots: {args.out}\npage: {page}")


def parse_pattern(
  name: str, codebooks: int
) -> "Callable[[int], Pattern] | None":
  """Parses the pattern on the command line; None for parallel.

  Args:
    name: name of a pattern, or the delay of each codebook: "0,1,1,1".
    codebooks: number of codebooks.

  Raises:
    UserError: an unknown pattern, or a wrong number of delays.
  """
  from mmdcodec import patterns

  if re.fullmatch(r"\d+(,\d+)*", name):
    delays = [int(part) for part in name.split(",")]
    pattern = patterns.make("delay", codebooks, delays=delays)
    return pattern if any(delays) else None
  return None if name == "parallel" else patterns.make(name, codebooks)
