"""Optimal transport between two bags of tokens.

MusicLM (Agostinelli et al. 2023, arXiv 2301.11325, section 5) calls two pieces
alike if little has to be moved to turn the histogram of the tokens of one into
that of the other, where to move a token costs the distance between the centres
of the two codes. With as many tokens in both pieces, some plan that pairs
tokens one to one is optimal, so the exact distance is that of an assignment
problem. `sinkhorn` is what the paper uses: an entropy term makes it smooth and
a little too large.
"""

import numpy as np
from scipy import optimize

# Iterations at most, and the error of a marginal at which they end.
_STEPS, _TOLERANCE = 1000, 1e-5


def assignment(cost: np.ndarray) -> float:
  """Least mean cost of pairing rows and columns one to one.

  Args:
    cost: float [items, items].
  """
  rows, columns = optimize.linear_sum_assignment(cost)
  return float(np.mean(cost[rows, columns]))


def sinkhorn(
  cost: np.ndarray, one: np.ndarray, other: np.ndarray, epsilon: float = 0.02
) -> float:
  """Cost of the plan that minimises cost minus `epsilon` times entropy.

  Cuturi 2013, arXiv 1306.0895, in the log domain. It is at least the least
  cost, and comes near it as `epsilon` becomes small.

  Args:
    cost: float [bins, other bins], at least 0.
    one: float [bins], above 0, of sum 1.
    other: float [other bins], above 0, of sum 1.
    epsilon: weight of the entropy, as a share of the mean cost.

  Returns:
    The transport cost of the plan, without the entropy.
  """
  if not cost.any():
    return 0.0
  scaled = -np.asarray(cost, np.float64) / (epsilon * cost.mean())
  down = np.zeros(len(other))
  for _ in range(_STEPS):
    across = np.log(one) - _log_sums(scaled + down)
    column = _log_sums((scaled + across[:, None]).T)
    if np.abs(np.exp(column + down) - other).sum() < _TOLERANCE:
      break
    down = np.log(other) - column
  plan = np.exp(scaled + across[:, None] + down)
  # What is left of the marginals moves in proportion, so that the plan is one
  # (Altschuler et al. 2017, arXiv 1705.09634, algorithm 2).
  plan *= np.minimum(one / plan.sum(1), 1)[:, None]
  plan *= np.minimum(other / plan.sum(0), 1)
  rest, other_rest = one - plan.sum(1), other - plan.sum(0)
  if rest.sum() > 0:
    plan += np.outer(rest, other_rest) / rest.sum()
  return float((plan * cost).sum())


def _log_sums(x: np.ndarray) -> np.ndarray:
  """Logarithms of the sums of exponentials of each row."""
  most = x.max(1)
  return most + np.log(np.exp(x - most[:, None]).sum(1))


def distances(centres: np.ndarray) -> np.ndarray:
  """Euclidean distances [codes, codes] of centres [codes, dim]."""
  x = np.asarray(centres, np.float64)
  squares = (x**2).sum(1)
  found = squares[:, None] + squares - 2 * x @ x.T
  np.fill_diagonal(found, 0.0)
  return np.sqrt(np.maximum(found, 0.0))


def between(
  one: np.ndarray,
  other: np.ndarray,
  costs: np.ndarray,
  epsilon: float | None = None,
) -> float:
  """Mean distance by which the tokens of a piece move to those of another.

  Args:
    one: int [tokens].
    other: int [tokens], as many.
    costs: float [codes, codes], from `distances`.
    epsilon: None for the exact distance; else that of `sinkhorn`.

  Raises:
    ValueError: the two have different numbers of tokens, or none.
  """
  if len(one) != len(other) or not len(one):
    raise ValueError(
      f"expected two pieces with as many tokens, got {len(one)} and"
      f" {len(other)}"
    )
  if epsilon is None:
    return assignment(costs[np.ix_(one, other)])
  codes, counts = np.unique(one, return_counts=True)
  others, other_counts = np.unique(other, return_counts=True)
  return sinkhorn(
    costs[np.ix_(codes, others)],
    counts / len(one),
    other_counts / len(other),
    epsilon,
  )
