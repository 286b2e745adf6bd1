"""`mmdcodec evaluate melody`: melodies that are found when played otherwise."""

import argparse
from typing import Any

from mmdcodec.errors import UserError

CLIPS = 200
# It renders its own music.
INPUTS: dict[str, bool] = {}


def load(path: str) -> Any:
  """Opens a melody embedding.

  Raises:
    UserError: it is another model.
  """
  import mmdcodec
  from mmdcodec.tokenizers.melody_embedding import Melody

  model = mmdcodec.load(path)
  if not isinstance(model, Melody):
    raise UserError(f"{path} holds no melody embedding, which this needs.")
  return model


def run(args: argparse.Namespace, model: Any) -> None:
  """Measures, prints a table, and writes results to --out."""
  from mmdcodec import formatting, progress
  from mmdcodec.evaluate import melody

  if args.clips < 2:
    raise UserError(f"--clips is {args.clips}; expected at least 2 melodies.")
  rows = melody.measure(model, args.clips, show=progress.counter("melodies"))
  print(
    f"{args.clips} melodies that were not trained on, each rendered twice\n"
  )
  print(formatting.table(melody.COLUMNS, melody.table(rows)))
  if args.out:
    about = {name: getattr(args, name) for name in ("model", "clips")}
    page = melody.write(rows, args.out, about)
    print(f"\nresults: {args.out}\npage: {page}")
