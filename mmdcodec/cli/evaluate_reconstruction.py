"""`mmdcodec evaluate reconstruction`: measure reconstruction quality."""

import argparse
import dataclasses
from typing import Any

CLIPS = 32


def run(args: argparse.Namespace, codec: Any) -> None:
  """Reconstructs clips, prints tables, and writes results to --out."""
  from mmdcodec.cli import common
  from mmdcodec.evaluate import (
    artefacts,
    reconstruction_report,
    result_folder,
  )
  from mmdcodec.evaluate import clips as clips_lib

  clips, about = common.read_clips(args, codec)
  result = clips_lib.reconstruct(
    codec, clips, codebooks=args.codebooks, about=about
  )
  found = artefacts.of_codec(codec, args.codebooks)
  result = dataclasses.replace(result, artefacts=found)
  print(reconstruction_report.as_text(result))
  if args.out:
    result_folder.prepare(args.out)
    clips_lib.save(result, args.out)
    page = reconstruction_report.write(result, args.out)
    print(f"\nresults, audio and plots: {args.out}\npage: {page}")
