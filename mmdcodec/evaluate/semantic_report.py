"""Tables and a page of what `semantic` measures."""

import pathlib
from collections.abc import Sequence
from typing import Any

from mmdcodec.evaluate import melody_pairs, probes, report, result_folder
from mmdcodec.evaluate.bootstrap import Measure
from mmdcodec.evaluate.semantic import Result
from mmdcodec.store import atomic


def melodies_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): distances of melodies by kind of tokens."""
  columns = ["tokens", "Hz", "codebooks", "codes used", "same melody"]
  columns += ["other melody", "ABX error (%)", "from", "to"]
  columns += ["other songs (%)", "from", "to"]
  rows = []
  for row in result.rows:
    found = row.measured
    error = [100 * value for value in found.interval("error")]
    easy = [100 * value for value in found.interval("easy")]
    rows.append(
      (
        row.name,
        float(row.frame_rate),
        row.codebooks,
        f"{found.used}/{row.size}",
        float(found.same.mean()),
        float(found.other.mean()),
        *error,
        *easy,
      )
    )
  return columns, rows


def probes_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): accuracy in percent by kind of features."""
  columns = ["features"]
  for name in probes.PROBES:
    columns += [f"{name} (%)", "from", "to"]
  nothing = Measure(*(float("nan"),) * 3)
  rows = []
  for kind, found in result.probed.items():
    cells = [found.get(name, nothing) for name in probes.PROBES]
    rows.append((kind, *(100 * value for cell in cells for value in cell)))
  return columns, rows


def tags_table(result: Result) -> tuple[list[str], list[tuple]]:
  """Returns (columns, rows): ROC-AUC of words by kind of features."""
  kinds = list(result.tagged)
  columns = ["word"]
  for kind in kinds:
    columns += [kind, "from", "to"]
  words = list(result.tagged[kinds[0]])
  rows = []
  for word in words:
    cells = (result.tagged[kind][word] for kind in kinds)
    rows.append((word, *(value for cell in cells for value in cell)))
  return columns, rows


MELODIES = (
  "Edit distance between the tokens of two songs, 0 to 1: of the same melody"
  " and of two melodies, always with other instruments, accompaniment and room,"
  " and in the same tempo, key and mode. ABX error: how often a song is nearer"
  " to another melody than to its own one in other instruments, if tempo, key"
  " and mode are the same; 50 is chance. Other songs: likewise, if they may"
  " differ too. From, to: 95 % of bootstrap samples of the groups."
)
PROBES = (
  "Share of right answers of a linear classifier that hears mean and standard"
  " deviation of the features over a song: key (12), tempo (3), family of the"
  " melody's instrument, drums. From, to: 95 % of bootstrap samples."
)
TAGS = (
  "ROC-AUC of ridge regression that hears the same of clips of real music, for"
  " each word that some captions or tags have and others lack. Each of five"
  " parts of the clips is judged by what the others teach. 0.5 is chance. From,"
  " to: 95 % of bootstrap samples of the clips."
)


def write(result: Result, folder: str | pathlib.Path) -> pathlib.Path:
  """Writes results.json and report.html into a folder.

  Returns:
    The path of the page.
  """
  folder = result_folder.prepare(folder)
  melodies, probed = melodies_table(result), probes_table(result)
  atomic.write_json(folder / "results.json", as_json(result))
  options = result_folder.chosen(
    result.about, "model", "codec", "audio", "seconds", "clips"
  )
  first = result.rows[0]
  real = []
  if result.tagged:
    real.append(report.Table("Real music", *tags_table(result), TAGS))
  return report.write_report(
    folder / "report.html",
    [
      report.Text(
        "What was run",
        [head(result)],
        result_folder.command("semantic", options),
      ),
      report.Table("Melodies", *melodies, MELODIES),
      report.Table("Linear probes", *probed, PROBES),
      *real,
      report.environment(),
    ],
    title="What tokens say about music",
    lead=f"ABX error {100 * first.measured.error.mean():.1f}%.",
  )


def as_json(result: Result) -> dict[str, Any]:
  """Returns the contents of results.json."""
  return {
    "about": result.about,
    "tokens": {
      row.name: {
        "frame_rate": row.frame_rate,
        "codebooks": row.codebooks,
        "size": row.size,
        "used": row.measured.used,
        **{
          name: row.measured.interval(name)
          for name in ("same", "other", "error", "easy")
        },
      }
      for row in result.rows
    },
    "probes": result.probed,
    "tags": result.tagged,
  }


def head(result: Result) -> str:
  """How much was measured, in words."""
  about = result.about
  return (
    f"{about['groups']} groups of {melody_pairs.MELODIES} melodies in"
    f" {melody_pairs.SETTINGS} settings; probes learn from {about['train']}"
    f" songs and answer for {about['test']}"
  )


def tables(result: Result) -> Sequence[tuple[list[str], list[tuple]]]:
  """Returns the tables to print."""
  found = [melodies_table(result), probes_table(result)]
  if result.tagged:
    found.append(tags_table(result))
  return found
