"""How well a melody embedding finds a melody that is played otherwise.

Each of many melodies of the built-in music, none of them trained on, is
rendered twice: on other instruments, in another key, at another speed, with
other accompaniment. The first renditions are the queries, the second ones the
answers.
"""

import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mmdcodec.audio import transforms
from mmdcodec.data.melody_clips import HELD_OUT, Melodies
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.evaluate import report, retrieval
from mmdcodec.store import atomic
from mmdcodec.tokenizers.melody_embedding import Melody

# Melodies that training measures itself with come before these.
FIRST = HELD_OUT + (1 << 20)
COLUMNS = ["", "R@1", "R@10", "median rank"]


class Row(NamedTuple):
  """What one kind of vectors finds.

  Attributes:
    name: what the vectors are.
    values: R@1, R@10 and median rank.
    low: lower ends of their intervals; empty for chance.
    high: upper ends.
  """

  name: str
  values: dict[str, float]
  low: dict[str, float]
  high: dict[str, float]


def measure(
  model: Melody,
  melodies: int,
  *,
  show: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
  """Measures retrieval among melodies that were not trained on.

  Args:
    model: the embedding.
    melodies: how many.
    show: shows the progress, as from `mmdcodec.progress.counter`.

  Returns:
    Rows for the embedding, for the mean of the mel spectrum in dB, which hears
    neither melody nor key, and for chance.
  """
  source = Melodies(
    melodies,
    first=FIRST,
    renditions=2,
    rate=model.rate,
    seconds=model.window or 1.0,
  )
  found: dict[str, list[np.ndarray]] = {"melody embedding": [], "mean mel": []}
  for i in range(melodies):
    show(i, melodies)
    x = np.stack([source.clip(i, which) for which in range(2)])
    rows, _ = model.embed(x)
    found["melody embedding"].append(rows[:, 0])
    found["mean mel"].append(_mean_level(x[..., 0], model.rate))
  show(melodies, melodies)
  right = np.eye(melodies, dtype=bool)
  out = [_row(name, np.stack(each), right) for name, each in found.items()]
  return [*out, Row("chance", retrieval.chance(right), {}, {})]


def _mean_level(x: np.ndarray, rate: int) -> np.ndarray:
  """Mean of the log-mel spectrum [clips, bands], about its own mean."""
  levels = transforms.log_mel(
    jnp.asarray(x), rate=rate, window=1024, hop=512, mels=64
  )
  mean = np.asarray(levels).mean(1)
  mean -= mean.mean(1, keepdims=True)
  return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)


def _row(name: str, vectors: np.ndarray, right: np.ndarray) -> Row:
  """Measures vectors [melodies, 2, dim]."""
  ranks = retrieval.ranks(vectors[:, 0] @ vectors[:, 1].T, right)
  values = retrieval.summary(ranks)
  low, high = {}, {}
  for key in values:

    def of_sample(some: np.ndarray, key: str = key) -> float:
      return retrieval.summary(ranks[some])[key]

    low[key], high[key] = retrieval.interval(of_sample, len(ranks))
  return Row(name, values, low, high)


def table(rows: Sequence[Row]) -> list[tuple]:
  """Rows of a table with COLUMNS; intervals are in brackets."""
  out = []
  for row in rows:
    cells = []
    for key, value in row.values.items():
      digits = 1 if key == "median_rank" else 3
      cell = f"{value:.{digits}f}"
      if key in row.low:
        cell += f" ({row.low[key]:.{digits}f}-{row.high[key]:.{digits}f})"
      cells.append(cell)
    out.append((row.name, *cells))
  return out


def write(
  rows: Sequence[Row], folder: str | pathlib.Path, about: dict[str, Any]
) -> pathlib.Path:
  """Writes results.json and report.html into a folder.

  Returns:
    The path of the page.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  clips_lib.clean(folder)
  results = {**about, "rows": [row._asdict() for row in rows]}
  atomic.write_json(folder / "results.json", results)
  note = (
    "In brackets, 95% bootstrap intervals over the queries. Both renditions of"
    " a melody differ in instrument, key, speed and accompaniment."
  )
  command = ["mmdcodec", "evaluate", "melody"]
  for name, value in about.items():
    command += [f"--{name}", f"{value}"]
  return report.write_report(
    folder / "report.html",
    [
      report.Text("What was run", [], code=shlex.join(command)),
      report.Table("Melodies that were found", COLUMNS, table(rows), note),
      report.environment(),
    ],
    title="Melody embedding",
    lead=f"R@1 {rows[0].values['r1']:.3f} among {about['clips']} melodies.",
  )
