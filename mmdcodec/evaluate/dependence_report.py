"""Measures the dependence between a codec's codebooks and writes a report."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmdcodec import progress
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.evaluate import (
  code_rows,
  codebook_plots,
  codebooks,
  dependence,
  dependence_plots,
  report,
  result_folder,
)
from mmdcodec.evaluate.dependence import Dependence
from mmdcodec.parallel import shares
from mmdcodec.patterns import Pattern
from mmdcodec.store import atomic
from mmdcodec.tokenizers.loaded_codec import LoadedCodec


def measure(
  codec: LoadedCodec,
  clips: Sequence[clips_lib.Clip],
  *,
  used: int,
  pattern: Callable[[int], Pattern] | None,
) -> Dependence:
  """Encodes clips and measures the dependence of their codes.

  Args:
    codec: codec to measure.
    clips: clips with its rate and channels.
    used: number of codebooks to encode with, at least two.
    pattern: pattern whose steps are measured; None for frames.

  Raises:
    UserError: the pattern has no rows in these clips.
  """

  def encode(clip: clips_lib.Clip) -> np.ndarray:
    return codec.encode(clip.audio[None], codebooks=used)[0]

  size = codec.codebook_size
  # A pattern without rows in the longest clip has none at all: raise the error
  # before encoding the others.
  longest = max(clips, key=lambda clip: len(clip.audio))
  code_rows.gather(encode(longest)[None], size, pattern=pattern)
  coded = shares.apply(encode, clips, progress.counter("clips encoded"))
  codes, mask = code_rows.pad(coded)
  return dependence.measure(
    codes,
    size,
    pattern=pattern,
    mask=mask,
    pieces=[clip.source for clip in clips],
    vectors=codebooks.vectors(codec),
    progress=progress.counter("measures taken"),
  )


def measures_table(
  found: Dependence, name: str, frame_rate: float
) -> tuple[list[str], list[list]]:
  """Returns (columns, rows): each measure for frames and for steps."""
  columns = ["bits per frame", "same frame", "±"]
  kinds = [found.aligned]
  if found.together is not found.aligned:
    columns += [name, "±"]
    kinds.append(found.together)
  nothing = float("nan")

  def upper(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.triu_indices(len(matrix), 1)]

  def coded(field: str) -> Callable[[Any], tuple[float, float]]:
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


def codebooks_table(
  found: Dependence, name: str
) -> tuple[list[str], list[list]]:
  """Returns (columns, rows): usage and dependence of each codebook."""
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


def write(
  found: Dependence,
  folder: str | pathlib.Path,
  about: Mapping[str, Any],
  *,
  head: str,
  frame_rate: float,
) -> pathlib.Path:
  """Writes results.json, plots and report.html into a folder.

  Args:
    found: the results.
    folder: created if missing.
    about: what was run: "model", "audio", "seconds", "clips", "codebooks",
      "pattern" and "hash".
    head: how much was measured, in words.
    frame_rate: frame rate of the codec, in Hz.

  Returns:
    The path of the page.
  """
  folder = result_folder.prepare(folder)
  name = about["pattern"]
  kinds = {"same frame": found.aligned.pairs}
  if found.together is not found.aligned:
    kinds[f"pattern {name}"] = found.together.pairs
  image = dependence_plots.heat_map(kinds, path=folder / "dependence.png")
  usage = codebook_plots.codebook_usage(
    found.counts, path=folder / "codebook_usage.png"
  )
  results = {"about": about, **found.to_dict()}
  atomic.write_json(folder / "results.json", results)
  options = result_folder.chosen(
    about, "model", "audio", "seconds", "clips", "codebooks", "pattern"
  )
  total = found.together.total
  return report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [f"Model {about['hash']}."],
        result_folder.command("dependence", options),
      ),
      *([report.Text("Beware", found.warnings)] if found.warnings else []),
      report.Table(
        "Dependence",
        *measures_table(found, name, frame_rate),
        "Total correlation: how much the codes of a step tell about one"
        " another, a lower bound by small networks on held-out clips. Mutual"
        " information: of histograms, minus that of shuffled clips. dHSIC: of"
        " the code vectors, minus that of shuffled clips; 1 if all are equal."
        " Adaptive coder: ideal size, learning as it goes. ±: standard error.",
      ),
      report.Table(
        "Codebooks",
        *codebooks_table(found, name),
        "Last columns: total correlation that each codebook adds, in bits."
        " Codebooks that collapse lose dependence together with entropy: look"
        " at both.",
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
