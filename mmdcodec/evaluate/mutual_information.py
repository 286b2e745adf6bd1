"""Measures mutual information of pairs of codebooks, corrected for chance.

The mutual information of histograms is never negative. Even for independent
codebooks it grows with the squared number of codes over the number of rows.
This chance level is estimated by shuffling and subtracted.

The shuffle (`Rows.shuffled`) gives each codebook its own order of whole clips
(or pieces, if known), so that codes keep their temporal order. Shuffling single
rows would be wrong: codes last for several rows, so there are fewer independent
codes than rows, and any two slow streams would seem dependent. Rotating each
clip would be wrong too: it keeps the codes of a clip together, but two
codebooks that both depend on the clip do count as dependent for one step of a
language model.

A limitation: codebooks that only change at the same moments have fewer
independent pairs than their shuffles, so the value is slightly too high.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmdcodec.evaluate import code_rows
from mmdcodec.patterns import PatternMaker

SHUFFLES = 100
LEVEL = 0.05  # chance that any pair of independent codebooks is significant
CHUNK = 1 << 22  # codes sorted at once


@dataclasses.dataclass(frozen=True)
class MutualInformation:
  """Mutual information of all pairs of codebooks, in bits per row.

  Symmetric arrays [codebooks, codebooks], NaN on the diagonal and for codebooks
  that no step predicts together.

  Attributes:
    bits: mutual information of the histograms, minus the mean of the shuffles.
    error: standard error, from resampling pieces (to first order, by their
      means of log p(a, b) / p(a) p(b)) and from the spread of the shuffles.
    null: mean of the shuffles, which was subtracted.
    significant: whether it is above nearly all shuffles. If all codebooks are
      independent, any pair is significant with a probability of at most LEVEL.
  """

  bits: np.ndarray
  error: np.ndarray
  null: np.ndarray
  significant: np.ndarray

  @property
  def interval(self) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the 95% confidence interval of the bits (normal)."""
    return self.bits - 1.96 * self.error, self.bits + 1.96 * self.error


def mutual_information(
  codes: np.ndarray,
  size: code_rows.Sizes,
  *,
  pattern: PatternMaker | None = None,
  mask: np.ndarray | None = None,
  pieces: Sequence | None = None,
  seed: int = 0,
  shuffles: int = SHUFFLES,
) -> MutualInformation:
  """Computes the mutual information of all pairs of codebooks.

  Args:
    codes: int [clips, frames, codebooks].
    size: codes in a codebook, one number or one per codebook.
    pattern: pattern of the language model; None means all codes of a frame.
    mask: bool [clips, frames], False in padding.
    pieces: [clips], a number or name for the piece of music of each clip, as in
      `code_rows.gather`; None means that each clip is a piece.
    seed: seed of the shuffles.
    shuffles: number of shuffles, at least 20 for a level of 5%.

  Returns:
    `MutualInformation`.

  Raises:
    UserError: `code_rows.gather` finds no rows.
  """
  kinds = code_rows.gather(
    codes, size, pattern=pattern, mask=mask, pieces=pieces
  )
  books = np.asarray(codes).shape[-1]
  bits, error, null = np.full((3, books, books), np.nan)
  significant = np.zeros((books, books), bool)
  random = np.random.default_rng(seed)
  pairs, values, nulls, errors = [], [], [], []
  for rows in kinds:
    first, second = np.triu_indices(len(rows.codebooks), 1)
    members = np.asarray(rows.codebooks)
    pairs.append((members[first], members[second]))
    value, spread = _with_error(rows, first, second)
    values.append(value)
    errors.append(spread)
    alone = _entropies(rows.codes.T)
    columns = np.arange(len(members))
    joint = [
      _joint(rows.codes[rows.shuffled(random), columns], first, second)
      for _ in range(shuffles)
    ]
    nulls.append(alone[first] + alone[second] - np.array(joint))
  a, b = np.concatenate(pairs, 1)
  found, spread = np.concatenate(values), np.concatenate(errors)
  chance = np.concatenate(nulls, 1)  # [shuffles, pairs]
  mean, deviation = chance.mean(0), chance.std(0, ddof=1)
  # Westfall and Young (1993): comparing with the largest pair of each shuffle
  # corrects for the number of pairs.
  unit = np.maximum(deviation, 1e-9)
  largest = np.sort(((chance - mean) / unit).max(1))
  threshold = largest[min(shuffles - 1, int(np.ceil((1 - LEVEL) * shuffles)))]
  filled: tuple[tuple[np.ndarray, np.ndarray], ...] = (
    (bits, found - mean),
    (error, np.hypot(spread, deviation)),
    (null, mean),
    (significant, (found - mean) / unit > threshold),
  )
  for matrix, value in filled:
    matrix[a, b] = matrix[b, a] = value
  return MutualInformation(bits, error, null, significant)


def _entropies(values: np.ndarray) -> np.ndarray:
  """Computes the entropy in bits of each line of integers [lines, rows]."""
  lines, rows = values.shape
  new = np.ones((lines, rows), bool)
  values = np.sort(values, 1)
  new[:, 1:] = values[:, 1:] != values[:, :-1]
  starts = np.flatnonzero(new)
  counts = np.diff(starts, append=lines * rows)
  total = np.bincount(starts // rows, counts * np.log2(counts), lines)
  return np.log2(rows) - total / rows


def _chunks(pairs: int, rows: int) -> list[slice]:
  """Splits the pairs into slices that bound the memory."""
  step = max(1, CHUNK // rows)
  return [slice(i, i + step) for i in range(0, pairs, step)]


def _joint(
  codes: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
  """Computes the joint entropy in bits of pairs of columns of [rows, k]."""
  columns = np.ascontiguousarray(codes.T)
  width = int(columns.max()) + 1  # at most 2048: a pair fits into 32 bits
  return np.concatenate(
    [
      _entropies(columns[first[at]] * width + columns[second[at]])
      for at in _chunks(len(first), len(codes))
    ]
  )


def _with_error(
  rows: code_rows.Rows, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Computes the mutual information of pairs in bits, and its standard error.

  The error is that of the mean over rows of log p(a, b) / p(a) p(b), the
  influence of each row on the value, resampling the rows of a piece together.
  """
  unit, count = rows.units(), len(rows)
  pieces = np.bincount(unit)
  width = int(rows.codes.max()) + 1
  log_alone = []
  for column in rows.codes.T:
    log_alone.append(np.log2(np.bincount(column)[column] / count))
  value, error = np.empty((2, len(first)))
  for i, (a, b) in enumerate(zip(first, second, strict=True)):
    pair = rows.codes[:, a] * width + rows.codes[:, b]
    _, inverse, counts = np.unique(
      pair, return_inverse=True, return_counts=True
    )
    log_joint = np.log2(counts[inverse] / count)
    influence = log_joint - log_alone[a] - log_alone[b]
    value[i] = influence.mean()
    total = np.bincount(unit, influence - value[i], minlength=len(pieces))
    scale = len(pieces) / max(len(pieces) - 1, 1)
    error[i] = np.sqrt(scale * np.sum(total**2)) / count
  return value, error
