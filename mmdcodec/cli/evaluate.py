"""`mmdcodec evaluate`: how well a codec reconstructs, in numbers and pictures.

The first word names what is measured; without one it is `reconstruction`.
"""

from mmdcodec.errors import UserError

HELP = "measure how well a codec reconstructs audio"
EXAMPLE = (
  "mmdcodec evaluate reconstruction --model bundles/small --audio music/test"
  " --out results"
)
# Other measures (dependence of codes, Frechet distance) go here.
MEASURES = ("reconstruction",)


def add_arguments(parser):
  """Adds the verb's arguments."""
  parser.add_argument(
    "measure",
    nargs="?",
    choices=MEASURES,
    default=MEASURES[0],
    help="what to measure (default: %(default)s)",
  )
  parser.add_argument(
    "--model", required=True, help="bundle, or workdir of a training run"
  )
  parser.add_argument(
    "--audio", required=True, help="folder of audio, one file, or a data set"
  )
  parser.add_argument(
    "--out", metavar="DIR", help="write results, audio, plots and a page here"
  )
  parser.add_argument(
    "--seconds",
    type=float,
    default=10.0,
    help="of each file, from its middle (default: %(default)g)",
  )
  parser.add_argument(
    "--clips",
    type=int,
    default=32,
    help="at most so many, spread evenly over the files (default: %(default)s)",
  )
  parser.add_argument(
    "--codebooks",
    type=int,
    metavar="N",
    help="use only the first N codebooks: how it sounds with fewer bits",
  )


def run(args):
  """Evaluates, prints the tables, writes what was asked for."""
  if args.seconds <= 0 or args.clips < 1:
    raise UserError("--seconds and --clips must be more than 0.")
  import mmdcodec
  from mmdcodec.cli import reports
  from mmdcodec.evaluate import clips as clips_lib

  codec = mmdcodec.load(args.model)
  clips = clips_lib.collect(
    args.audio,
    rate=codec.rate,
    channels=codec.channels,
    seconds=args.seconds,
    count=args.clips,
  )
  result = clips_lib.reconstruct(codec, clips, codebooks=args.codebooks)
  print(as_text(result))
  if args.out:
    clips_lib.save(result, args.out)
    page = reports.write_evaluation(
      result, args.out, model=args.model, audio=args.audio
    )
    print(f"\nresults, audio and plots: {args.out}\npage: {page}")


def as_text(result) -> str:
  """Tables of a `Reconstruction` for a terminal."""
  from mmdcodec.cli import common
  from mmdcodec.evaluate.clips import COLUMNS

  total = sum(row["seconds"] for row in result.rows)
  measures = [
    (heading, *result.summary[name], words)
    for name, (heading, words) in COLUMNS.items()
  ]
  levels = [
    (level, 100 * use, perplexity)
    for level, (use, perplexity) in enumerate(
      zip(result.use, result.perplexity, strict=True), 1
    )
  ]
  size = result.counts.shape[1]
  return "\n\n".join(
    [
      f"{len(result.rows)} clips, {common.duration_text(total)},"
      f" {result.bits_per_second / 1000:.2f} kbps",
      common.format_table(("measure", "mean", "std", ""), measures),
      common.format_table(
        ("codebook", "use (%)", f"perplexity (of {size})"), levels
      ),
    ]
  )
