"""Retrieval and zero-shot tagging with embeddings, in NumPy.

A query has one or several right answers: where two songs have the same traits,
one text describes both. The rank of a query is that of its first right answer.
Of answers that are equally similar the wrong ones come first, so that a model
that gives everything the same vector finds nothing.
"""

import numpy as np

from mmdcodec.evaluate import bootstrap


def ranks(similarity: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Rank of the first right answer of each query.

  Args:
    similarity: float [queries, answers].
    right: bool [queries, answers]; every query has a right answer.

  Returns:
    int [queries], from 1.
  """
  best = np.max(np.where(right, similarity, -np.inf), axis=1, keepdims=True)
  # NaN compares to nothing, and must not win.
  return 1 + np.sum(~right & ~(similarity < best), axis=1)


def summary(found: np.ndarray) -> dict[str, float]:
  """R@1, R@10 and the median of ranks."""
  return {
    "r1": float(np.mean(found <= 1)),
    "r10": float(np.mean(found <= 10)),
    "median_rank": float(np.median(found)),
  }


def measured(found: np.ndarray) -> dict[str, bootstrap.Measure]:
  """The `summary` of ranks, with intervals over the queries."""

  def of_sample(name: str) -> bootstrap.Measure:
    value = lambda some: summary(found[some])[name]
    everyone = np.arange(len(found))
    ends = bootstrap.interval(value, len(found))
    return bootstrap.Measure(value(everyone), *ends)

  return {name: of_sample(name) for name in summary(found)}


def chance(right: np.ndarray) -> dict[str, float]:
  """What `summary` gives for answers in random order, exactly.

  Args:
    right: bool [queries, answers].
  """
  answers = right.shape[1]
  within = np.zeros(answers + 1)
  for count in right.sum(1):
    # Share of orders in which none of the right ones is among the first k.
    missed = 1.0
    for k in range(answers + 1):
      within[k] += 1 - missed
      left = answers - k
      missed *= max(left - count, 0) / left if left else 0.0
  within /= len(right)
  return {
    "r1": float(within[1]),
    "r10": float(within[min(10, answers)]),
    # As of numbers: between two ranks if just half of all are below them.
    "median_rank": 0.5
    * float(np.argmax(within > 0.5 - 1e-9) + np.argmax(within > 0.5 + 1e-9)),
  }


def roc_auc(
  scores: np.ndarray,
  positive: np.ndarray,
  times: np.ndarray | None = None,
  parts: np.ndarray | None = None,
) -> np.ndarray:
  """Area under the ROC curve: how often a positive item scores higher.

  Args:
    scores: float [items].
    positive: bool [items].
    times: how often each item counts, [..., items], as in samples of a
      bootstrap; None for once.
    parts: [items], the part of each item; only items of one part are compared.
      None: they are all of one.

  Returns:
    float [...] from 0 to 1, ties counting half; NaN where no part has both
    classes.
  """
  positive = np.asarray(positive, bool)
  times = np.ones(len(positive)) if times is None else times.astype(float)
  high, low = scores[positive][:, None], scores[~positive][None, :]
  wins = (high > low) + 0.5 * (high == low)
  compared = np.ones(wins.shape)
  if parts is not None:
    compared = (parts[positive][:, None] == parts[~positive]).astype(float)
  ones, zeros = times[..., positive], times[..., ~positive]
  won = ((ones @ (wins * compared)) * zeros).sum(-1)
  pairs = ((ones @ compared) * zeros).sum(-1)
  return np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)


def gap(audio: np.ndarray, text: np.ndarray) -> dict[str, float]:
  """The gap between two clouds of embeddings of norm 1.

  Args:
    audio: float [items, dim].
    text: float [items, dim], of the same items.

  Returns:
    `gap`: distance between the two means (Liang et al. 2022, arXiv 2203.02053);
    `own`: mean cosine of a clip and its text; `other`: of a clip and the text
    of another one.
  """
  cosines = audio @ text.T
  own = float(np.trace(cosines)) / len(audio)
  others = len(audio) * max(len(audio) - 1, 1)
  return {
    "gap": float(np.linalg.norm(audio.mean(0) - text.mean(0))),
    "own": own,
    "other": float(cosines.sum() - np.trace(cosines)) / others,
  }
