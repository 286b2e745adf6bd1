"""Optimal transport against closed forms, and pairings against direct counts.

Must catch: a plan that is not the best one, marginals that are not met, an
entropy that stays in the cost, and a p that counts the wrong pairings.
"""

import itertools

import numpy as np
import pytest

from mmdcodec.evaluate import pairing, transport


def test_on_a_line_sorted_tokens_are_paired():
  """Catches a plan that is not the best one: on a line it is that of ranks."""
  random = np.random.default_rng(0)
  places = np.sort(random.normal(size=30))
  costs = transport.distances(places[:, None])
  np.testing.assert_allclose(costs, np.abs(places[:, None] - places))
  one, other = random.integers(0, 30, (2, 125))
  want = np.abs(np.sort(places[one]) - np.sort(places[other])).mean()
  assert transport.between(one, other, costs) == pytest.approx(want)
  assert transport.between(one, random.permutation(one), costs) == 0
  # A shift costs its length.
  shifted = transport.distances(np.concatenate([places, places + 3])[:, None])
  assert transport.between(one, one + 30, shifted) == pytest.approx(3.0)


def test_sinkhorn_comes_near_the_assignment():
  """Catches marginals that are not met, and an entropy within the cost."""
  random = np.random.default_rng(1)
  costs = transport.distances(random.normal(size=(20, 3)))
  one, other = random.integers(0, 20, 60), random.integers(5, 20, 60)
  exact = transport.between(one, other, costs)
  found = [transport.between(one, other, costs, e) for e in (0.5, 0.1, 0.01)]
  assert exact - 1e-9 < found[2] < found[1] < found[0]
  assert found[2] == pytest.approx(exact, rel=0.01)
  assert transport.between(one, one, costs * 0, 0.1) == 0
  # With one bin there is one plan.
  single = transport.between(one * 0, other, costs, 0.3)
  assert single == pytest.approx(costs[0, other].mean(), rel=1e-5)
  with pytest.raises(ValueError, match="as many"):
    transport.between(one, other[1:], costs)


def test_an_unfinished_plan_is_one(monkeypatch):
  """Catches a cost below the least, of a plan that moves too little."""
  random = np.random.default_rng(4)
  costs = transport.distances(random.normal(size=(9, 2)))
  one, other = np.repeat([0, 1, 2], 4), np.repeat([3, 4, 5], [10, 1, 1])
  exact = transport.between(one, other, costs)
  monkeypatch.setattr(transport, "_STEPS", 1)
  assert transport.between(one, other, costs, 0.02) >= exact


def test_assignment_is_the_best_of_all():
  cost = np.random.default_rng(2).random((5, 5))
  at = np.arange(5)
  best = min(cost[at, list(p)].mean() for p in itertools.permutations(range(5)))
  assert transport.assignment(cost) == pytest.approx(best)


def test_pairing_counts_all_orders():
  """Catches chance that includes own partners, and a p of other pairings."""
  alike = np.random.default_rng(3).random((5, 5)) + 0.4 * np.eye(5)
  found, at = pairing.measure(alike), np.arange(5)
  orders = [list(p) for p in itertools.permutations(range(5))]
  sums = np.array([alike[at, order].sum() for order in orders])
  want = np.mean(sums >= np.trace(alike) - 1e-9)
  assert found.p == pytest.approx(want, abs=0.02)
  assert found.own == pytest.approx(np.trace(alike) / 5)
  others = alike[~np.eye(5, dtype=bool)]
  assert found.chance == pytest.approx(others.mean())
  assert found.low <= found.own <= found.high and found.things == 5
  # Where all are equally alike, nothing is found.
  assert pairing.measure(np.full((5, 5), 0.1), shuffles=50).p == 1


def test_signs():
  """Catches signs that leave the actual ones out, and a two-sided test."""
  better = np.array([0.5, 1.0, 2.0, 0.25])
  signs = np.array(list(itertools.product([-1, 1], repeat=4)))
  want = np.mean(signs @ better >= better.sum())
  assert pairing.sign_test(better).p == pytest.approx(want, abs=0.02)
  assert pairing.sign_test(-better).p == 1
  found = pairing.sign_test(better)
  assert found.own == better.mean() and found.chance == 0
