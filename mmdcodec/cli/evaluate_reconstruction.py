"""`mmdcodec evaluate reconstruction`: what a codec loses of audio."""

from mmdcodec import formatting

CLIPS = 32


def run(args, codec):
  """Reconstructs clips, prints the tables, writes what was asked for."""
  from mmdcodec.cli import common, reports
  from mmdcodec.evaluate import clips as clips_lib

  clips, about = common.read_clips(args, codec)
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
    (level, 100 * usage, perplexity)
    for level, (usage, perplexity) in enumerate(
      zip(result.usage, result.perplexity, strict=True), 1
    )
  ]
  size = result.counts.shape[1]
  return "\n\n".join(
    [
      f"{len(result.rows)} clips, {formatting.duration(total)},"
      f" {result.bits_per_second / 1000:.2f} kbps",
      common.format_table(("measure", "mean", "std", ""), measures),
      common.format_table(
        ("codebook", "usage (%)", f"perplexity (of {size})"), levels
      ),
    ]
  )
