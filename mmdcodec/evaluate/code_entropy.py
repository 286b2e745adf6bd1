"""Entropy of codes under counts from other music: unigrams and bigrams."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmdcodec.data import token_records


def entropies(
  train: Sequence[str], valid: Sequence[str]
) -> tuple[float, float]:
  """Bits per frame that codes take without a language model.

  Args:
    train: token data sets on which probabilities are counted.
    valid: token data sets that are coded with them.

  Returns:
    Cross-entropy of each codebook's own distribution, summed; and that of each
    code given the one before it in the same codebook, which falls back on the
    former where counts are few.
  """
  about = token_records.TokenSource(train[0])
  size, books = about.codebook_size, about.codebooks
  one, two = np.ones((books, size)), np.zeros((books, size, size))
  for codes in (record["codes"] for record in read_records(train)):
    for k in range(books):
      np.add.at(one[k], codes[:, k], 1)
      np.add.at(two[k], (codes[:-1, k], codes[1:, k]), 1)
  one /= one.sum(1, keepdims=True)
  # Witten-Bell smoothing: one added count for each kind of successor.
  kinds = (two > 0).sum(2, keepdims=True)
  total = two.sum(2, keepdims=True)
  seen = total > 0
  share = np.where(
    seen,
    (two + kinds * one[:, None]) / np.where(seen, total + kinds, 1),
    one[:, None],
  )
  bits, count = np.zeros(2), 0
  for codes in (record["codes"] for record in read_records(valid)):
    count += len(codes)
    for k in range(books):
      alone = np.log2(one[k, codes[:, k]])
      bits[0] -= alone.sum()
      # The first code has no predecessor.
      bits[1] -= alone[0] + np.log2(share[k, codes[:-1, k], codes[1:, k]]).sum()
  return float(bits[0] / count), float(bits[1] / count)


def read_records(datasets: Sequence[str]) -> Iterator[dict[str, Any]]:
  """Reads the records of token data sets, one after the other."""
  for path in datasets:
    opened = token_records.TokenSource(path)
    yield from (opened[i] for i in range(len(opened)))
