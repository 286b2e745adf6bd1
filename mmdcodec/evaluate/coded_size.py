"""Measures the size of codes under an adaptive coder with various contexts.

The coder counts the codes so far and spends -log2 p bits on each code, where p
is its estimate from those counts. There is no network and no training: the size
includes the cost of learning the counts.

Each estimate backs off from a longer context to a shorter one,

    p_d(x | context) = (n(context, x) + b p_{d-1}(x)) / (n(context) + b)
    p_0(x) = (n(x) + a / size) / (n + a)

as in PPM with a fixed escape weight b (a Dirichlet prior with mean p_{d-1}). A
Bayesian mixture combines several weights and contexts: its size is -log2 of the
mean over the coders of 2^-size, in total at most log2(coders) bits more than
the best coder.

Counts of the past come from sorting, so there is no loop over rows.

An adaptive coder learns from each clip while coding it, so repetitions within a
clip make it smaller. Given the previous row, earlier codebooks save `previous`
minus `both` bits.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmdcodec.evaluate import code_rows
from mmdcodec.patterns import PatternMaker

PRIORS = (1.0, 16.0, 256.0)  # a: pseudo-counts, spread over the codebook
WEIGHTS = (2.0, 8.0, 32.0)  # b
DEPTH = 2  # codes in the longest context


@dataclasses.dataclass(frozen=True)
class CodedSize:
  """Ideal code lengths in bits per frame, including the cost of learning.

  All float64 [codebooks].

  Attributes:
    alone: each codebook separately.
    earlier: given earlier codebooks of the row.
    previous: given the same codebook's code in the previous row.
    both: given either or both.
  """

  alone: np.ndarray
  earlier: np.ndarray
  previous: np.ndarray
  both: np.ndarray


def coded_size(
  codes: np.ndarray,
  size: code_rows.Sizes,
  *,
  pattern: PatternMaker | None = None,
  mask: np.ndarray | None = None,
) -> CodedSize:
  """Computes code lengths of consecutive clips under an adaptive coder.

  Args:
    codes: int [clips, frames, codebooks].
    size: codes in a codebook, one number or one per codebook.
    pattern: pattern of the language model; None means all codes of a frame.
    mask: bool [clips, frames], False in padding.

  Returns:
    `CodedSize`.

  Raises:
    UserError: `code_rows.gather` finds no rows.
  """
  books = np.asarray(codes).shape[-1]
  sizes = code_rows.sizes_of(size, books)
  sums = np.zeros((4, books))
  for rows in code_rows.gather(codes, size, pattern=pattern, mask=mask):
    for k, book in enumerate(rows.codebooks):
      sums[:, book] = _sizes(rows, k, int(sizes[book])) / len(rows)
  return CodedSize(*sums)


def _sizes(rows: code_rows.Rows, k: int, size: int) -> np.ndarray:
  """Computes the bits of column k of rows: alone, earlier, previous, both."""
  x = rows.codes[:, k]
  sequences: dict[int | str, np.ndarray] = {
    j: rows.codes[:, j] for j in range(k)
  }
  sequences["previous"] = rows.previous(x, size)
  alone: set[tuple] = {()}
  near, far = range(k - 1, -1, -1), range(k)
  earlier = {
    tuple(order[: depth + 1])
    for order in (near, far)
    for depth in range(min(k, DEPTH))
  }
  previous = {("previous",)}
  both = {("previous", k - 1), (k - 1, "previous")} if k else set()
  lengths = {
    chain: coder_bits(x, size, [sequences[name] for name in chain])
    for chain in sorted(alone | earlier | previous | both, key=str)
  }
  return np.array(
    [
      mixture_bits([lengths[chain] for chain in sorted(chains, key=str)])
      for chains in (
        alone,
        alone | earlier,
        alone | previous,
        alone | earlier | previous | both,
      )
    ]
  )


def mixture_bits(lengths: Sequence[np.ndarray]) -> float:
  """Computes the bits of the Bayesian mixture of coders from their bits."""
  bits = np.concatenate(lengths)
  best = bits.min()
  return float(best - np.log2(np.mean(2.0 ** (best - bits))))


def coder_bits(
  x: np.ndarray, size: int, chain: Sequence[np.ndarray]
) -> np.ndarray:
  """Computes the bits of a sequence given a context, per prior and weight.

  Args:
    x: int [rows].
    size: number of codes.
    chain: sequences [rows] known before x, in the order in which they extend
      the context; empty for no context.

  Returns:
    float64 [priors * weights], or [priors] without a context.
  """
  seen, of_x = np.arange(len(x)), _past(x)
  context, counts = np.zeros(len(x), np.int64), []
  for more in chain:
    context = _number(context, more)
    counts.append((_past(_number(context, x)), _past(context)))
  lengths = []
  for prior in PRIORS:
    shortest = (of_x + prior / size) / (seen + prior)
    for weight in WEIGHTS if counts else WEIGHTS[:1]:
      p = shortest
      for together, alone in counts:
        p = (together + weight * p) / (alone + weight)
      lengths.append(-np.log2(p).sum())
  return np.array(lengths)


def _number(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Numbers distinct pairs from 0: int64 [rows]."""
  pair = a.astype(np.int64) * (int(b.max()) + 1) + b
  return np.unique(pair, return_inverse=True)[1]


def _past(x: np.ndarray) -> np.ndarray:
  """Counts earlier occurrences of each entry: int64 [rows]."""
  order = np.argsort(x, kind="stable")
  ordered = x[order]
  new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
  start = np.maximum.accumulate(np.where(new, np.arange(len(x)), 0))
  out = np.empty(len(x), np.int64)
  out[order] = np.arange(len(x)) - start
  return out
