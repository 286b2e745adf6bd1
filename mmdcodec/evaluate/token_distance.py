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
  books = len(one)
  # In units of one codebook of a frame, whole numbers.
  steps = books * np.arange(other.shape[2] + 1, dtype=np.int32)
  row = np.tile(steps, (len(pairs), 1))
  new = np.empty_like(row)
  found = np.where(lengths == 0, books * others, 0)
  items = np.arange(len(pairs))
  for i in range(one.shape[2]):
    new[:, 0] = books * (i + 1)
    new[:, 1:] = row[:, :-1]
    for a, b in zip(one[:, :, i, None], other, strict=True):
      new[:, 1:] += a != b
    np.minimum(new[:, 1:], row[:, 1:] + books, out=new[:, 1:])
    # An insertion continues from the left: min over j of new[j] + (k - j).
    new -= steps
    np.minimum.accumulate(new, 1, out=row)
    row += steps
    found = np.where(lengths == i + 1, row[items, others], found)
  return found / np.maximum(books * np.maximum(lengths, others), 1)


def _padded(items: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Stacks sequences to [codebooks, items, frames]; returns lengths too."""
  lengths = np.array([len(item) for item in items])
  shape = (items[0].shape[-1], len(items), lengths.max())
  stacked = np.full(shape, -1, np.int32)
  for i, item in enumerate(items):
    stacked[:, i, : len(item)] = np.transpose(item)
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
