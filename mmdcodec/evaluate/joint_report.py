"""Tables and a page of what `joint` measures."""

import pathlib
from typing import Any

from mmdcodec.evaluate import bootstrap, joint, report, result_folder
from mmdcodec.evaluate.joint import Result
from mmdcodec.store import atomic

# How a bridge is called in tables.
BRIDGES = {"none": "as trained", "shift": "mean shift", "mapper": "mapper"}


def head(result: Result) -> str:
  """What was measured, in words."""
  return (
    f"{len(result.clips)} clips with a text; a clip with {result.alike} counts"
    " as found"
  )


def retrieval_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): both directions, by bridge, and chance."""
  rows: list[tuple] = []
  for what, found, chance in (
    ("text to music", result.to_audio, result.chance),
    ("music to text", result.to_text, result.chance),
    ("text to its own music", result.own, result.own_chance),
  ):
    for name, each in found.items():
      cells = [bootstrap.shown(*x) for x in (each.r1, each.r10)]
      rank = bootstrap.shown(*each.median_rank, 1)
      rows.append((what, BRIDGES[name], *cells, rank))
    shares = [f"{chance[name]:.3f}" for name in ("r1", "r10")]
    rows.append((what, "chance", *shares, f"{chance['median_rank']:.1f}"))
  return ["", "text", "R@1", "R@10", "median rank"], rows


def gap_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): the gap between texts and audio, by bridge."""
  rows = [
    (BRIDGES[name], each["gap"], each["own"], each["other"])
    for name, each in result.gaps.items()
  ]
  columns = ["text", "distance of the means", "cosine, own", "cosine, other"]
  return columns, rows


def tags_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): ROC-AUC of each tag, by bridge."""
  rows = [
    (tag, result.values[tag], *(bootstrap.shown(*x) for x in found.values()))
    for tag, found in result.tags.items()
  ]
  rows.append(("chance", "", *["0.500"] * len(result.gaps)))
  names = [BRIDGES[name] for name in result.gaps]
  return ["tag", "values", *names], rows


def codes_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): agreement of the codes of texts and of audio."""
  rows = [
    (f"first {each.levels}", each.own, each.shuffled, each.p)
    for each in result.agreements
  ]
  return ["codes", "own text", "text of another clip", "p"], rows


# Headings, tables and notes, in the order of the page.
TABLES = (
  (
    "Retrieval",
    retrieval_table,
    "In brackets, 95% bootstrap intervals over the queries. Of equally similar"
    " answers, the wrong ones come first. Last, only clips with the very same"
    " text count as found.",
  ),
  (
    "Gap between texts and audio",
    gap_table,
    "Cosines of a clip with its own text, and with those of other clips.",
  ),
  (
    "Zero-shot tagging: ROC-AUC",
    tags_table,
    "The text of a tag against all clips, as the mean over the values that at"
    f" least {joint.FEWEST} clips have and {joint.FEWEST} do not.",
  ),
  (
    "Codes of texts and of audio",
    codes_table,
    "Share of clips whose first codes are those of the text; p by random"
    " pairings.",
  ),
)


def tables(result: Result) -> list[report.Table]:
  """The tables that have rows."""
  found = []
  for title, make, note in TABLES:
    columns, rows = make(result)
    if rows and not (make is tags_table and not result.tags):
      found.append(report.Table(title, columns, rows, note))
  return found


def write(
  result: Result, folder: str | pathlib.Path, about: dict[str, Any]
) -> pathlib.Path:
  """Writes results.json and report.html into a folder.

  Returns:
    The path of the page.
  """
  folder = result_folder.prepare(folder)
  atomic.write_json(folder / "results.json", joint.as_json(result, about))
  options = result_folder.chosen(about, "model", "audio", "seconds", "clips")
  best = result.to_audio["none"].r10.value
  return report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [f"{head(result)}."],
        result_folder.command("joint", options),
      ),
      *tables(result),
      report.environment(),
    ],
    title="Joint embedding",
    lead=f"Text to music: R@10 {best:.3f}, chance {result.chance['r10']:.3f}.",
  )
