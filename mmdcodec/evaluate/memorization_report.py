"""A table and a page of what `memorization` measures."""

import pathlib
from typing import Any

from mmdcodec import formatting
from mmdcodec.evaluate import report, result_folder
from mmdcodec.evaluate.bootstrap import Measure
from mmdcodec.evaluate.json_values import plain
from mmdcodec.evaluate.memorization import Result
from mmdcodec.store import atomic

COLUMNS = [
  "tokens given", "exact", "approximate", "prompt repeated", "distance",
  "entropy (bits)", "of matches",
]  # fmt: skip


def head(result: Result) -> str:
  """What was measured, in words."""
  found = (
    f"{result.clips} training clips of {result.recordings} recordings,"
    f" continued greedily by {result.continued} tokens"
  )
  if result.left_out:
    numbers = ", ".join(map(str, result.left_out))
    found += f"; prompts of {numbers} tokens do not fit the model"
  return found


def threshold(result: Result) -> str:
  """What the threshold is, and what it can tell, in words."""
  return (
    f"A match is nearer than {result.threshold:.3f}; the median of"
    f" {result.negatives:,} pairs of a continuation and a clip of another"
    f" recording is {result.strangers:.3f}. {result.false_positives} of these"
    " pairs are nearer than the threshold: the share of false positives is"
    f" below {formatting.share(result.false_bound)} with 97.5% confidence, as"
    " if the pairs were independent."
  )


def table(result: Result) -> list[tuple]:
  """Rows of a table with COLUMNS."""
  return [
    (
      row.prompt,
      _share(row.exact),
      _share(row.approximate),
      _share(row.repeated),
      row.distance,
      row.entropy,
      row.match_entropy,
    )
    for row in result.rows
  ]


def _share(found: Measure | None) -> str:
  if found is None:
    return "–"
  value, low, high = (f"{100 * x:.1f}" for x in found)
  return f"{value}% ({low}-{high})"


NOTE = (
  "In brackets, 95% intervals (Clopper-Pearson) that count the clips of a"
  " recording as one. Approximate: near by optimal transport of"
  " the tokens, at the distances of their centres. Prompt repeated: approximate"
  " matches if the last tokens of the prompt were the continuation, which is"
  " what music that repeats itself gives away. Distance: the median to the clip"
  " itself. Low entropy means continuations of few different tokens."
)


def as_json(result: Result, about: dict[str, Any]) -> dict[str, Any]:
  """Returns the contents of results.json."""
  return {"about": about, **plain(result)}


def write(
  result: Result, folder: str | pathlib.Path, about: dict[str, Any]
) -> pathlib.Path:
  """Writes results.json and report.html into a folder.

  Returns:
    The path of the page.
  """
  folder = result_folder.prepare(folder)
  atomic.write_json(folder / "results.json", as_json(result, about))
  most = max(row.approximate.value for row in result.rows)
  exact = max(row.exact.value for row in result.rows)
  return report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [f"{head(result)}."],
        result_folder.command("memorization", about),
      ),
      report.Table("Matches", COLUMNS, table(result), NOTE),
      report.Text("Threshold", [threshold(result)]),
      report.environment(),
    ],
    title="Memorization",
    lead=(
      f"At most {100 * exact:.1f}% of {result.clips} continuations equal their"
      f" training clip, and at most {100 * most:.1f}% come near it."
    ),
  )
