"""How well a melody embedding finds a melody that is played otherwise.

Each of many melodies of the built-in music, none of them trained on, is
rendered twice: on other instruments, in another key, at another speed, with
other accompaniment. The first renditions are the queries, the second ones the
answers.
"""

import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mmdcodec.audio import transforms
from mmdcodec.data.melody_clips import HELD_OUT, SPEED, Melodies
from mmdcodec.evaluate import bootstrap, report, result_folder, retrieval
from mmdcodec.parallel import shares
from mmdcodec.store import atomic
from mmdcodec.tokenizers.melody_embedding import Melody

# Melodies that training measures itself with come before these.
FIRST = HELD_OUT + (1 << 20)
# Of chroma: seconds of a frame, and from one to the next.
_FRAME, _HOP = 0.256, 0.08
# Speeds that are tried to compare two clips, the same one in the middle.
_SPEEDS = SPEED ** (2 * np.linspace(-1, 1, 9))
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
    Rows for the embedding; for chroma, each pair compared in all keys and at
    nine speeds, which needs no training but gives no vector of a clip; for the
    mean of the mel spectrum in dB, which hears neither melody nor key; and for
    chance.
  """
  source = Melodies(
    melodies,
    first=FIRST,
    renditions=2,
    rate=model.rate,
    seconds=model.window or 1.0,
  )

  def hear(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = np.stack([source.clip(i, which) for which in range(2)])
    rows, _ = model.embed(x)
    mono = x[..., 0]
    level, chroma = _mean_level(mono, model.rate), _chroma(mono, model.rate)
    return np.asarray(rows[:, 0]), level, chroma

  heard = shares.apply(hear, range(melodies), show)
  embedded, mean, classes = map(list, zip(*heard, strict=True))
  right = np.eye(melodies, dtype=bool)
  return [
    _row("melody embedding", _products(embedded), right),
    _row("chroma, in all keys", correlations(np.stack(classes)), right),
    _row("mean mel", _products(mean), right),
    Row("chance", retrieval.chance(right), {}, {}),
  ]


def _products(vectors: list[np.ndarray]) -> np.ndarray:
  """Similarity of the first and the second vectors of each melody."""
  first, second = np.stack(vectors, 1)
  return first @ second.T


def _chroma(x: np.ndarray, rate: int) -> np.ndarray:
  """Pitch classes [clips, frames, 12], each frame of norm 1."""
  found = transforms.chroma(
    jnp.asarray(x),
    rate=rate,
    window=2 ** max(4, round(math.log2(_FRAME * rate))),
    hop=max(1, round(_HOP * rate)),
    normalize=False,
  )
  return _unit(np.asarray(found))


def _unit(x: np.ndarray) -> np.ndarray:
  """Divides vectors [..., dim] by their norms; 0 stays 0."""
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)


def correlations(chroma: np.ndarray) -> np.ndarray:
  """Compares clips that begin together, in all keys and at nine speeds.

  Args:
    chroma: float [melodies, 2, frames, 12].

  Returns:
    float [melodies, melodies]: the highest correlation of the first clip of one
    melody with the second of another.
  """
  melodies, _, frames, classes = chroma.shape

  def rows(x: np.ndarray) -> np.ndarray:
    x = x - x.mean((1, 2), keepdims=True)
    return _unit(x.reshape(melodies, -1))

  best = np.full((melodies, melodies), -np.inf)
  for speed in _SPEEDS:
    at = speed * np.arange(frames)
    at = at[at <= frames - 1]
    before = np.minimum(at.astype(int), max(frames - 2, 0))
    share = (at - before)[:, None]
    second = (
      chroma[:, 1, before] * (1 - share)
      + chroma[:, 1, np.minimum(before + 1, frames - 1)] * share
    )
    first = rows(chroma[:, 0, : len(at)])
    for up in range(classes):
      moved = rows(np.roll(second, up, -1))
      np.maximum(best, first @ moved.T, out=best)
  return best


def _mean_level(x: np.ndarray, rate: int) -> np.ndarray:
  """Mean of the log-mel spectrum [clips, bands], about its own mean."""
  levels = transforms.log_mel(
    jnp.asarray(x), rate=rate, window=1024, hop=512, mels=64
  )
  mean = np.asarray(levels).mean(1)
  return _unit(mean - mean.mean(1, keepdims=True))


def _row(name: str, similarity: np.ndarray, right: np.ndarray) -> Row:
  """Measures retrieval by similarities [melodies, melodies]."""
  found = retrieval.measured(retrieval.ranks(similarity, right))
  return Row(
    name,
    {key: each.value for key, each in found.items()},
    {key: each.low for key, each in found.items()},
    {key: each.high for key, each in found.items()},
  )


def table(rows: Sequence[Row]) -> list[tuple]:
  """Rows of a table with COLUMNS; intervals are in brackets."""
  out = []
  for row in rows:
    cells = []
    for key, value in row.values.items():
      digits = 1 if key == "median_rank" else 3
      if key in row.low:
        ends = row.low[key], row.high[key]
        cells.append(bootstrap.shown(value, *ends, digits))
      else:
        cells.append(f"{value:.{digits}f}")
    out.append((row.name, *cells))
  return out


def write(
  rows: Sequence[Row], folder: str | pathlib.Path, about: dict[str, Any]
) -> pathlib.Path:
  """Writes results.json and report.html into a folder.

  Returns:
    The path of the page.
  """
  folder = result_folder.prepare(folder)
  results = {**about, "rows": [row._asdict() for row in rows]}
  atomic.write_json(folder / "results.json", results)
  note = (
    "In brackets, 95% bootstrap intervals over the queries. Both renditions of"
    " a melody differ in instrument, key, speed and accompaniment."
  )
  return report.write_report(
    folder / "report.html",
    [
      report.Text("What was run", [], result_folder.command("melody", about)),
      report.Table("Melodies that were found", COLUMNS, table(rows), note),
      report.environment(),
    ],
    title="Melody embedding",
    lead=f"R@1 {rows[0].values['r1']:.3f} among {about['clips']} melodies.",
  )
