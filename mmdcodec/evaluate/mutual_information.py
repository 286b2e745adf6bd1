"""How many bits two codebooks say about each other, and whether it is chance.

Mutual information of two histograms is never negative and grows with the
number of codes squared over the number of rows, also between codebooks that
have nothing to do with each other. What chance alone gives is found by
shuffling, and taken off.

The shuffle (`Rows.shuffled`) gives each codebook an order of whole clips of its
own (of pieces, where they are known), so that codes keep their order in time.
Shuffling rows would not do: codes last for several rows, so there are fewer
independent ones than rows, and any two slow streams would seem dependent.
Turning each clip in itself would not do either: it keeps which codes belong to
which clip, and that two codebooks both know the clip is dependence, as far as
one step of a language model goes.

What it cannot tell apart: codebooks that only change at the same moments have
fewer independent pairs than their shuffles, and show a little too much.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmdcodec.evaluate import code_rows
from mmdcodec.patterns import PatternMaker

SHUFFLES = 100
LEVEL = 0.05  # chance that any pair of independent codebooks is marked
CHUNK = 1 << 22  # codes sorted at once


@dataclasses.dataclass(frozen=True)
class MutualInformation:
  """Of every pair of codebooks that stand in a row, in bits per row.

  All [codebooks, codebooks], symmetric; NaN on the diagonal, and for two
  codebooks that no step predicts together.

  Attributes:
    bits: of the histograms, less the mean of the shuffles.
    error: standard error: pieces drawn again (to first order: their means of
      log p(a, b) / p(a) p(b)) and the spread of the shuffles.
    null: mean of the shuffles, what was taken off.
    significant: above nearly all shuffles; at most LEVEL is the chance that
      one of the pairs is marked if all codebooks are independent.
  """

  bits: np.ndarray
  error: np.ndarray
  null: np.ndarray
  significant: np.ndarray

  @property
  def interval(self) -> tuple[np.ndarray, np.ndarray]:
    """Bounds between which the bits lie in 95 of 100 cases (normal)."""
    return self.bits - 1.96 * self.error, self.bits + 1.96 * self.error


def mutual_information(
  codes: np.ndarray,
  size: int | Sequence[int],
  *,
  pattern: PatternMaker | None = None,
  mask: np.ndarray | None = None,
  pieces: Sequence | None = None,
  seed: int = 0,
  shuffles: int = SHUFFLES,
) -> MutualInformation:
  """Mutual information of all pairs of codebooks.

  Args:
    codes: int [clips, frames, codebooks].
    size: codes in a codebook, one number or one for each.
    pattern: what is predicted together; None for the codes of a frame.
    mask: bool [clips, frames], False where there is no frame.
    pieces: [clips], a number or name of the piece of music that each clip is
      of; None: each is of its own. See `code_rows.gather`.
    seed: of the shuffles.
    shuffles: how many; at least 20, for a level of 5%.

  Returns:
    See `MutualInformation`.

  Raises:
    UserError: no rows; see `code_rows.gather`.
  """
  kinds = code_rows.gather(
    codes, size, pattern=pattern, mask=mask, pieces=pieces
  )
  books = np.asarray(codes).shape[-1]
  bits, error, null = np.full((3, books, books), np.nan)
  significant = np.zeros((books, books), bool)
  random = np.random.default_rng(seed)
  pairs, found, chance, spread = [], [], [], []
  for rows in kinds:
    first, second = np.triu_indices(len(rows.codebooks), 1)
    held = np.asarray(rows.codebooks)
    pairs.append((held[first], held[second]))
    values, errors = _with_error(rows, first, second)
    found.append(values)
    spread.append(errors)
    alone = _entropies(rows.codes.T)
    books_of = np.arange(len(held))
    joint = [
      _joint(rows.codes[rows.shuffled(random), books_of], first, second)
      for _ in range(shuffles)
    ]
    chance.append(alone[first] + alone[second] - np.array(joint))
  a, b = np.concatenate(pairs, 1)
  found, spread = np.concatenate(found), np.concatenate(spread)
  chance = np.concatenate(chance, 1)  # [shuffles, pairs]
  mean, deviation = chance.mean(0), chance.std(0, ddof=1)
  # Westfall and Young (1993): the largest pair of each shuffle is what the
  # largest of the data has to beat, so many pairs need no other correction.
  unit = np.maximum(deviation, 1e-9)
  largest = np.sort(((chance - mean) / unit).max(1))
  threshold = largest[min(shuffles - 1, int(np.ceil((1 - LEVEL) * shuffles)))]
  values = (
    (bits, found - mean),
    (error, np.hypot(spread, deviation)),
    (null, mean),
    (significant, (found - mean) / unit > threshold),
  )
  for matrix, value in values:
    matrix[a, b] = matrix[b, a] = value
  return MutualInformation(bits, error, null, significant)


def _entropies(values: np.ndarray) -> np.ndarray:
  """Entropy in bits of each line of integers [lines, rows]."""
  lines, rows = values.shape
  new = np.ones((lines, rows), bool)
  values = np.sort(values, 1)
  new[:, 1:] = values[:, 1:] != values[:, :-1]
  starts = np.flatnonzero(new)
  counts = np.diff(starts, append=lines * rows)
  total = np.bincount(starts // rows, counts * np.log2(counts), lines)
  return np.log2(rows) - total / rows


def _chunks(pairs: int, rows: int):
  """Slices of pairs, so that little memory is needed."""
  step = max(1, CHUNK // rows)
  return [slice(i, i + step) for i in range(0, pairs, step)]


def _joint(codes: np.ndarray, first, second) -> np.ndarray:
  """Entropy in bits of pairs of columns of [rows, k]."""
  columns = np.ascontiguousarray(codes.T)
  width = int(columns.max()) + 1  # at most 2048: a pair fits into 32 bits
  return np.concatenate(
    [
      _entropies(columns[first[at]] * width + columns[second[at]])
      for at in _chunks(len(first), len(codes))
    ]
  )


def _with_error(rows, first, second) -> tuple[np.ndarray, np.ndarray]:
  """Mutual information of pairs in bits, and its error by pieces.

  The error is that of the mean of log p(a, b) / p(a) p(b) over rows, the
  influence of each row on the value, with all rows of a piece moving together.
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
