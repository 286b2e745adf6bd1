"""`mmdcodec evaluate semantic`: measure what tokens say about music."""

import argparse
from typing import Any

from mmdcodec.errors import UserError

CLIPS = 240
# It renders its own music, and real music is optional.
INPUTS = {"audio": False}


def load(path: str) -> Any:
  """Opens a tokenizer of any kind that has codes."""
  from mmdcodec import bundle

  tokenizer = bundle.load_tokenizer(path)
  tokenizer.check_codes_suffice()
  return tokenizer


def run(args: argparse.Namespace, tokenizer: Any) -> None:
  """Measures, prints tables, and writes results to --out."""
  from mmdcodec import bundle, formatting, progress
  from mmdcodec.cli import common
  from mmdcodec.evaluate import semantic, semantic_report

  if args.clips < 12:
    raise UserError(
      f"--clips is {args.clips}; the probes need at least 12 songs."
    )
  names = ("model", "codec", "audio", "seconds", "clips")
  clips = common.read_clips(args, tokenizer)[0] if args.audio else []
  result = semantic.measure(
    tokenizer,
    bundle.load_codec(args.codec) if args.codec else None,
    songs=args.clips,
    seconds=args.seconds,
    about={name: getattr(args, name) for name in names},
    clips=clips,
    progress=progress.counter,
  )
  print(semantic_report.head(result))
  for table in semantic_report.tables(result):
    print("\n" + formatting.table(*table))
  if args.out:
    page = semantic_report.write(result, args.out)
    print(f"\nresults: {args.out}\npage: {page}")
