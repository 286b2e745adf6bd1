"""`mmdcodec evaluate reconstruction`: measure reconstruction quality."""

import argparse
from typing import Any

CLIPS = 32


def run(args: argparse.Namespace, codec: Any) -> None:
  """Reconstructs clips, prints tables, and writes results to --out."""
  from mmdcodec.cli import common
  from mmdcodec.evaluate import clips as clips_lib
  from mmdcodec.evaluate import reconstruction_report

  clips, about = common.read_clips(args, codec)
  result = clips_lib.reconstruct(
    codec, clips, codebooks=args.codebooks, about=about
  )
  print(reconstruction_report.as_text(result))
  if args.out:
    clips_lib.clean(args.out)
    clips_lib.save(result, args.out)
    page = reconstruction_report.write(result, args.out)
    print(f"\nresults, audio and plots: {args.out}\npage: {page}")
