"""Ranks, chance, ROC-AUC and the gap against direct counts.

Must catch: ties that a collapsed model wins, a chance level that forgets that
several answers are right, and an area that ignores ties.
"""

import itertools

import numpy as np
import pytest
from sklearn import metrics

from mmdcodec.evaluate import retrieval


def test_ranks():
  similarity = np.array([[0.9, 0.5, 0.7], [0.1, 0.3, 0.3], [0.2, 0.2, 0.2]])
  right = np.array([[0, 1, 0], [0, 1, 0], [1, 0, 1]], bool)
  np.testing.assert_array_equal(retrieval.ranks(similarity, right), [3, 2, 2])
  same = retrieval.ranks(np.full((3, 3), np.nan), np.eye(3, dtype=bool))
  np.testing.assert_array_equal(same, [3, 3, 3])
  found = retrieval.summary(np.array([1, 2, 11, 30]))
  assert found == {"r1": 0.25, "r10": 0.5, "median_rank": 6.5}


def test_intervals_are_those_of_the_queries():
  """Catches an interval of another number of the summary."""
  found = np.random.default_rng(2).integers(1, 30, 200)
  measured = retrieval.measured(found)
  assert {k: v.value for k, v in measured.items()} == retrieval.summary(found)
  share = measured["r10"]
  width = 2 * 1.96 * np.sqrt(share.value * (1 - share.value) / 200)
  np.testing.assert_allclose(share.high - share.low, width, rtol=0.2)
  assert measured["r1"].high < share.low


def test_chance_is_that_of_all_orders():
  right = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 1]], bool)
  orders = list(itertools.permutations(range(5)))
  first = [
    [1 + min(order.index(i) for i in np.flatnonzero(row)) for order in orders]
    for row in right
  ]
  found = retrieval.chance(right)
  np.testing.assert_allclose(found["r1"], np.mean(np.array(first) == 1))
  assert found["r10"] == 1.0
  assert found["median_rank"] == np.median(first)
  many = retrieval.chance(np.eye(200, dtype=bool))
  np.testing.assert_allclose(many["r10"], 0.05)
  assert many["median_rank"] == 100.5
  for count in (23, 24, 38):  # 24 and 38: a half that rounds to less
    found = retrieval.chance(np.eye(count, dtype=bool))["median_rank"]
    assert found == np.median(np.arange(1, count + 1))


def test_roc_auc():
  rng = np.random.default_rng(0)
  scores, labels = rng.integers(0, 5, 60), rng.random(60) < 0.3
  np.testing.assert_allclose(
    retrieval.roc_auc(scores, labels), metrics.roc_auc_score(labels, scores)
  )
  assert np.isnan(retrieval.roc_auc(scores, np.ones(60, bool)))
  # Items that count several times or not at all.
  times = rng.integers(0, 3, (4, 60))
  times[3] = labels
  found = retrieval.roc_auc(scores, labels, times)
  for area, each in zip(found[:3], times, strict=False):
    many = np.repeat(np.arange(60), each)
    expected = metrics.roc_auc_score(labels[many], scores[many])
    np.testing.assert_allclose(area, expected)
  assert np.isnan(found[3])


def test_roc_auc_within_parts():
  """Catches items of different parts that are compared."""
  rng = np.random.default_rng(1)
  part, labels = np.arange(60) // 20, rng.random(60) < 0.4
  scores = rng.standard_normal(60)
  times = rng.integers(1, 3, 60)
  won = pairs = 0
  for i in np.flatnonzero(labels):
    for j in np.flatnonzero(~labels):
      if part[i] == part[j]:
        pairs += times[i] * times[j]
        won += times[i] * times[j] * (scores[i] > scores[j])
  found = retrieval.roc_auc(scores, labels, times, part)
  np.testing.assert_allclose(found, won / pairs)
  # Levels of whole parts say nothing.
  shifted = scores + 9.0 * part
  np.testing.assert_allclose(
    retrieval.roc_auc(shifted, labels, times, part), found
  )
  assert np.isnan(retrieval.roc_auc(scores, part == 1, times, part))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_gap(shift):
  audio = np.eye(4)
  text = np.eye(4) + shift
  found = retrieval.gap(audio, text)
  np.testing.assert_allclose(found["gap"], 2 * shift)
  np.testing.assert_allclose(found["own"], 1 + shift)
  np.testing.assert_allclose(found["other"], shift)
