"""`mmdcodec evaluate`: how well a codec reconstructs, in numbers and pictures.

The first word names what is measured; without one it is `reconstruction`.
"""

from mmdcodec import text
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
  parser.add_argument(
    "--force", action="store_true", help="replace the results in --out"
  )


def run(args):
  """Evaluates, prints the tables, writes what was asked for."""
  if args.seconds <= 0 or args.clips < 1:
    raise UserError("--seconds and --clips must be more than 0.")
  import mmdcodec
  from mmdcodec.cli import reports
  from mmdcodec.evaluate import clips as clips_lib

  if args.out:
    clips_lib.check_folder(args.out, force=args.force)
  codec = mmdcodec.load(args.model)
  clips = clips_lib.collect(
    args.audio,
    rate=codec.rate,
    channels=codec.channels,
    seconds=args.seconds,
    count=args.clips,
  )
  about = {
    name: getattr(args, name) for name in ("model", "audio", "seconds", "clips")
  }
  result = clips_lib.reconstruct(
    codec, clips, codebooks=args.codebooks, about=about
  )
  print(as_text(result))
  if args.out:
    clips_lib.clean(args.out)
    clips_lib.save(result, args.out)
    page = reports.write_evaluation(result, args.out)
    print(f"\nresults, audio and plots: {args.out}\npage: {page}")


def as_text(result) -> str:
  """Tables of a `Reconstruction` for a terminal."""
  from mmdcodec.cli import common, reports
  from mmdcodec.evaluate.clips import COLUMNS

  total = sum(row["seconds"] for row in result.rows)
  measures = [
    (heading, *result.summary[name], words)
    for name, (heading, words) in COLUMNS.items()
  ]
  nominal, coded = reports.rates(result)
  nothing = float("nan")
  measures += [
    ("bit rate (kbps)", nominal, nothing, "of the packed codes"),
    ("entropy-coded (kbps)", coded, nothing, "with an ideal coder"),
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
      f"{len(result.rows)} clips, {text.duration(total)},"
      f" {result.bits_per_second / 1000:.2f} kbps",
      common.format_table(("measure", "mean", "std", ""), measures),
      common.format_table(
        ("codebook", "use (%)", f"perplexity (of {size})"), levels
      ),
    ]
  )
