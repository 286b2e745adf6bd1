"""`mmdcodec evaluate dependence`: what codebooks say about one another."""

import json
import pathlib
import re
import shlex

import numpy as np

from mmdcodec.errors import UserError

CLIPS = 200


def run(args, codec):
  """Encodes clips, prints the tables, writes what was asked for."""
  from mmdcodec.cli import common
  from mmdcodec.evaluate import code_rows, codebooks, dependence

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
  size = codec.codebook_size
  encode = lambda clip: codec.encode(clip.audio[None], codebooks=books)[0]
  # A pattern that has no rows in the longest clip has none at all: say so
  # before all others are encoded.
  longest = max(clips, key=lambda clip: len(clip.audio))
  code_rows.gather(encode(longest)[None], size, pattern=pattern)
  show = common.progress_line("clips encoded")
  codes = []
  for done, clip in enumerate(clips, 1):
    codes.append(encode(clip))
    show(done, len(clips))
  codes, mask = code_rows.pad(codes)
  found = dependence.measure(
    codes,
    size,
    pattern=pattern,
    mask=mask,
    pieces=[clip.source for clip in clips],
    vectors=codebooks.vectors(codec),
    progress=common.progress_line("measures taken"),
  )
  columns, rows = measures_table(found, name, codec.frame_rate)
  seconds = sum(len(clip.audio) for clip in clips) / codec.rate
  head = f"{len(clips)} clips, {seconds:.0f} s, {found.frames:,} frames"
  print(head + "\n")
  print(common.format_table(columns, rows) + "\n")
  print(common.format_table(*codebooks_table(found, name)))
  for warning in found.warnings:
    print(f"\nwarning: {warning}")
  if args.out:
    about.update(codebooks=books, pattern=name, hash=codec.hash)
    page = write(found, args.out, about, head, codec.frame_rate)
    print(f"\nresults and plots: {args.out}\npage: {page}")


def parse_pattern(name: str, codebooks: int):
  """The pattern that the command line names; None for parallel.

  Args:
    name: of a pattern, or the delay of each codebook: "0,1,1,1".
    codebooks: of the codec.

  Raises:
    UserError: no such pattern, or not one delay for each codebook.
  """
  from mmdcodec import patterns

  if re.fullmatch(r"\d+(,\d+)*", name):
    delays = [int(part) for part in name.split(",")]
    pattern = patterns.make("delay", codebooks, delays=delays)
    return pattern if any(delays) else None
  return None if name == "parallel" else patterns.make(name, codebooks)


def measures_table(found, name: str, frame_rate: float):
  """(columns, rows): each measure for frames, and for the pattern's steps."""
  columns = ["bits per frame", "same frame", "±"]
  kinds = [found.aligned]
  if found.together is not found.aligned:
    columns += [name, "±"]
    kinds.append(found.together)
  nothing = float("nan")

  def upper(matrix):
    return matrix[np.triu_indices(len(matrix), 1)]

  def coded(field):
    return lambda m: (float(getattr(m.coded, field).sum()), nothing)

  lines = [
    ("total correlation, held out", lambda m: (m.total.bits, m.total.error)),
    (
      "  as % of the entropy",
      lambda m: (
        100 * m.total.share,
        100 * m.total.error / max(m.total.entropy.sum(), 1e-9),
      ),
    ),
    (
      "mutual information, mean of pairs",
      lambda m: (
        float(np.nanmean(upper(m.pairs.bits))),
        float(np.nanmean(upper(m.pairs.error))),
      ),
    ),
    (
      "  pairs above chance",
      lambda m: (int(upper(m.pairs.significant).sum()), nothing),
    ),
    (
      "dHSIC, 0 to 1",
      lambda m: (m.kernel.normalised - m.kernel.null, m.kernel.null_error),
    ),
    ("adaptive coder, each codebook alone", coded("alone")),
    ("  given earlier codebooks", coded("earlier")),
    ("  given the previous step", coded("previous")),
    ("  given both", coded("both")),
    (
      "adaptive coder, alone (kbps)",
      lambda m: (m.coded.alone.sum() * frame_rate / 1000, nothing),
    ),
    (
      "  given both (kbps)",
      lambda m: (m.coded.both.sum() * frame_rate / 1000, nothing),
    ),
  ]
  return columns, [
    [title, *(value for m in kinds for value in measure(m))]
    for title, measure in lines
  ]


def codebooks_table(found, name: str):
  """(columns, rows): usage and dependence of each codebook."""
  columns = ["codebook", "usage (%)", "perplexity", "entropy", "same frame"]
  kinds = [found.aligned]
  if found.together is not found.aligned:
    columns.append(name)
    kinds.append(found.together)
  rows = []
  for k in range(len(found.usage)):
    rows.append(
      [
        k + 1,
        100 * float(found.usage[k]),
        float(found.perplexity[k]),
        float(found.aligned.total.entropy[k]),
        *(float(m.total.per_codebook[k]) for m in kinds),
      ]
    )
  return columns, rows


def write(found, folder, about: dict, head: str, frame_rate: float):
  """FOLDER/results.json, dependence.png, codebook_usage.png and report.html."""
  from mmdcodec.evaluate import clips as clips_lib
  from mmdcodec.evaluate import dependence_plots, plots, report

  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  clips_lib.clean(folder)
  name = about["pattern"]
  kinds = {"same frame": found.aligned.pairs}
  if found.together is not found.aligned:
    kinds[f"pattern {name}"] = found.together.pairs
  image = dependence_plots.heat_map(kinds, path=folder / "dependence.png")
  usage = plots.codebook_usage(found.counts, path=folder / "codebook_usage.png")
  results = {"about": about, **found.to_dict()}
  (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
  command = ["mmdcodec", "evaluate", "dependence"]
  for field in ("model", "audio", "seconds", "clips", "codebooks", "pattern"):
    command += [f"--{field}", f"{about[field]}"]
  total = found.together.total
  return report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run", [f"Model {about['hash']}."], code=shlex.join(command)
      ),
      *([report.Text("Beware", found.warnings)] if found.warnings else []),
      report.Table(
        "Dependence",
        *measures_table(found, name, frame_rate),
        "Total correlation: what codes of a step say about one another, by"
        " small networks on held-out clips, a lower bound. Mutual information:"
        " of histograms, less what shuffled clips give. dHSIC: of the code"
        " vectors, less the same, 1 if all are equal. Adaptive coder: ideal"
        " size with what it has learned so far. ±: standard error.",
      ),
      report.Table(
        "Codebooks",
        *codebooks_table(found, name),
        "Last columns: total correlation that each codebook adds, in bits."
        " Codebooks that collapse lose dependence as they lose entropy; look at"
        " both.",
      ),
      report.Figure(
        "Pairs of codebooks",
        [image],
        "Mutual information in bits above that of shuffled clips.",
      ),
      report.Figure("Codebook usage", [usage]),
      report.environment(),
    ],
    title="Dependence of codebooks",
    lead=(
      f"{head}: total correlation {total.bits:.3f} ± {total.error:.3f} bits per"
      f" frame ({100 * total.share:.1f}% of the entropy) under {name}."
    ),
  )
