"""Cross-entropy of codes under unigram and bigram counts of other music."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmdcodec.data import token_records


def entropies(
  train: Sequence[str], valid: Sequence[str]
) -> tuple[float, float]:
  """Computes bits per frame without a language model.

  Args:
    train: token data sets that the probabilities are estimated from.
    valid: token data sets to measure.

  Returns:
    Cross-entropies, summed over codebooks: under each codebook's own
    distribution, and given the previous code of the same codebook (backing off
    to the former where counts are few).
  """
  about = token_records.TokenSource(train[0])
  size, books = about.codebook_size, about.codebooks
  one, two = np.ones((books, size)), np.zeros((books, size, size))
  for codes in (record["codes"] for record in read_records(train)):
    for k in range(books):
      np.add.at(one[k], codes[:, k], 1)
      np.add.at(two[k], (codes[:-1, k], codes[1:, k]), 1)
  one /= one.sum(1, keepdims=True)
  # Witten-Bell smoothing: one count is added for each distinct successor.
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
