"""`mmdcodec evaluate memorization`: does a model repeat its training music?"""

import argparse
from typing import Any

import numpy as np

from mmdcodec.errors import UserError

CLIPS = 256
INPUTS = {"tokens": True}


def load(path: str) -> Any:
  """Opens a stage of a language model, or a MusicLM."""
  import mmdcodec

  return mmdcodec.load(path)


def run(args: argparse.Namespace, model: Any) -> None:
  """Measures, prints a table, and writes results to --out."""
  from mmdcodec import formatting, progress
  from mmdcodec.evaluate import memorization, memorization_report, token_sets

  if args.clips < 2:
    raise UserError(f"--clips is {args.clips}; expected at least 2 clips.")
  stage, centres = find(args, model)
  sources = token_sets.of_stage(
    stage, token_sets.find(args.tokens), without=token_sets.OPTIONAL
  )
  result = memorization.measure(
    stage, sources, centres, clips=args.clips, show=progress.counter
  )
  print(memorization_report.head(result) + "\n")
  rows = memorization_report.table(result)
  print(formatting.table(memorization_report.COLUMNS, rows))
  print("\n" + memorization_report.threshold(result))
  if args.out:
    names = ("model", "tokens", "semantic", "clips")
    about = {name: getattr(args, name) for name in names}
    page = memorization_report.write(result, args.out, about)
    print(f"\nresults: {args.out}\npage: {page}")


def find(args: argparse.Namespace, model: Any) -> tuple[Any, np.ndarray]:
  """Returns the semantic stage, and the centres of its codes [codes, dim].

  Raises:
    UserError: the model has none, or the tokenizer is missing or another one.
  """
  from mmdcodec import bundle
  from mmdcodec.generation.musiclm import LoadedMusicLM
  from mmdcodec.generation.stage import Stage
  from mmdcodec.tokenizers.clustered import CODEBOOK, Clustered

  stage = model if isinstance(model, Stage) else None
  if isinstance(model, LoadedMusicLM):
    stage = model.parts.stages.get("semantic")
  if stage is None:
    raise UserError(
      f"{args.model} holds no semantic stage: give one that `mmdcodec train"
      " --config=musiclm_semantic` trained, or a MusicLM with one."
    )
  tokenizer = getattr(model, "semantic", None)
  if args.semantic is not None:
    tokenizer = bundle.load_tokenizer(args.semantic)
  if tokenizer is None:
    raise UserError(
      f"{args.model} is a stage without its tokenizer; give that with"
      " --semantic BUNDLE."
    )
  if not isinstance(tokenizer, Clustered):
    raise UserError(
      f"the {tokenizer.kind} tokenizer has no centres of k-means; give the one"
      " whose tokens the stage makes."
    )
  if tokenizer.hash != stage.target["hash"]:
    raise UserError(
      f"the stage makes codes of the {stage.target['tokenizer']}"
      f" {stage.target['hash']}, not of this one, {tokenizer.hash}."
    )
  tokenizer.check_codes_suffice()
  return stage, np.asarray(tokenizer.variables[CODEBOOK]["embed"])[0]
