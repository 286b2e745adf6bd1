"""Distance between sequences of codes, and how well it tells things apart.

The ABX error (Schatz et al. 2013, as in the Zero Resource Speech Challenge): X
shares something with A and not with B, such as a melody, while A and B share
what X has not, such as instruments. It is an error if X is nearer to B.
"""

from collections.abc import Sequence

import numpy as np


def edit_distances(
  pairs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
  """Edit distance of pairs of sequences, as a share of the longer one.

  Inserting or deleting a frame costs 1; replacing a frame costs the share of
  its codebooks that differ, so that with one codebook it is the distance of
  Levenshtein.

  Args:
    pairs: int [frames, codebooks] each; the two of a pair may differ in frames.

  Returns:
    float64 [pairs], in [0, 1].
  """
  if not pairs:
    return np.zeros(0)
  one, lengths = _padded([a for a, _ in pairs])
  other, others = _padded([b for _, b in pairs])
  steps = np.arange(other.shape[1] + 1, dtype=np.float64)
  row = np.tile(steps, (len(pairs), 1))
  found = np.where(lengths == 0, others, 0).astype(np.float64)
  for i in range(one.shape[1]):
    cost = (one[:, i, None] != other).mean(-1)
    new = np.empty_like(row)
    new[:, 0] = i + 1
    new[:, 1:] = np.minimum(row[:, 1:] + 1, row[:, :-1] + cost)
    # An insertion continues from the left: min over j of new[j] + (k - j).
    row = np.minimum.accumulate(new - steps, 1) + steps
    last = row[np.arange(len(pairs)), others]
    found = np.where(lengths == i + 1, last, found)
  return found / np.maximum(np.maximum(lengths, others), 1)


def _padded(items: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Stacks sequences [frames, codebooks] and returns their lengths too."""
  lengths = np.array([len(item) for item in items])
  shape = (len(items), lengths.max(), items[0].shape[-1])
  stacked = np.full(shape, -1, np.int64)
  for row, item in zip(stacked, items, strict=True):
    row[: len(item)] = item
  return stacked, lengths


def abx_errors(same: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Errors of comparisons: 1 where `other` is nearer, 0.5 if equally near.

  Args:
    same: distances of X and A.
    other: distances of X and B; the shapes broadcast.

  Returns:
    float64 of the common shape.
  """
  return (other < same) + 0.5 * (other == same)
