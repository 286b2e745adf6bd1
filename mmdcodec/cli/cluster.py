"""`mmdcodec cluster`: fit the codebooks of a semantic or joint model."""

import argparse

from mmdcodec import formatting, progress

HELP = "fit the codebooks of a semantic, joint or melody model to its features"
EXAMPLE = "mmdcodec cluster runs/semantic data/music semantic"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the verb's arguments."""
  parser.add_argument(
    "model", metavar="MODEL", help="workdir, bundle or public weights"
  )
  parser.add_argument(
    "dataset", metavar="DATASET", help="audio, of `mmdcodec prepare`"
  )
  parser.add_argument("bundle", metavar="BUNDLE", help="folder to make")
  parser.add_argument(
    "--codes",
    type=int,
    metavar="N",
    help="codes of each level (default: by the kind of model)",
  )
  parser.add_argument(
    "--levels",
    type=int,
    metavar="N",
    help="codebooks, each for what those before it leave (default: by the kind"
    " of model)",
  )
  parser.add_argument(
    "--rows",
    type=int,
    default=200_000,
    metavar="N",
    help="frames to fit to, sampled from all of the audio and kept in memory"
    " (default: %(default)s)",
  )
  parser.add_argument(
    "--seed", type=int, default=0, metavar="N", help="(default: %(default)s)"
  )
  parser.add_argument(
    "--force", action="store_true", help="replace a bundle that exists"
  )
  parser.add_argument("--quiet", action="store_true", help="no progress line")


def run(args: argparse.Namespace) -> int:
  """Fits the codebooks and prints how well they fit."""
  from mmdcodec.workflows import cluster

  shown = {} if args.quiet else {"progress": progress.counter}
  fit = cluster.cluster(
    args.model,
    args.dataset,
    args.bundle,
    codes=args.codes,
    levels=args.levels,
    rows=args.rows,
    seed=args.seed,
    force=args.force,
    **shown,
  )
  print(
    f"{args.bundle}: {len(fit.left)} x {fit.codes} codes, fitted to"
    f" {fit.rows:,} frames of {fit.records:,} records"
  )
  rows = [
    (i + 1, f"{100 * left:.2f}%", used, fit.codes - used, moved)
    for i, (left, used, moved) in enumerate(
      zip(fit.left, fit.used, fit.reseeded, strict=True)
    )
  ]
  head = ("level", "variance left", "codes used", "empty", "moved")
  print(formatting.table(head, rows))
  if fit.bridge is not None:
    print(
      f"\nmapper from text to audio, fitted to {fit.bridge['pairs']:,} pairs:"
      f" cosine {fit.bridge['after']:.3f} on others, {fit.bridge['before']:.3f}"
      " without it"
    )
  return 0
