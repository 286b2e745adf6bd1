"""Rows of codes: which frames they are of, and what is kept together.

Defects that these tests must catch: rows of a pattern that no measure can take,
padding that counts, codebooks of different size mixed up, shuffles that cut
pieces of music, pieces of music that are held out in part.
"""

import numpy as np
import pytest
from known_codes import SIZE, uniform

from mmdcodec import patterns
from mmdcodec.errors import UserError
from mmdcodec.evaluate import code_rows, coded_size
from mmdcodec.evaluate.mutual_information import mutual_information
from mmdcodec.evaluate.total_correlation import total_correlation


def test_kinds_of_step_that_share_a_codebook_are_refused():
  """A value of one kind that overwrites another's: half of the bits lost."""

  def shared(frames):
    # Codebook 1 is predicted with 0 in even frames, with 2 in odd ones.
    steps = []
    for t in range(0, frames, 2):
      steps += [((t, 0), (t, 1)), ((t, 2),)]
      steps += [((t + 1, 0),), ((t + 1, 1), (t + 1, 2))]
    return patterns.Pattern(frames, 3, tuple(steps))

  codes = uniform(18)
  for measure in (
    total_correlation,
    mutual_information,
    coded_size.coded_size,
  ):
    with pytest.raises(UserError, match="steps of several kinds"):
      measure(codes, SIZE, pattern=shared)
  # A delay that is longer than the clips has such kinds too.
  with pytest.raises(UserError, match="longer clips"):
    code_rows.gather(codes[:, :2], SIZE, pattern=patterns.delay(3))
  apart = patterns.unroll(4, [0, 0, 1, 1])
  kinds = code_rows.gather(uniform(18, 4), SIZE, pattern=apart)
  assert [rows.codebooks for rows in kinds] == [(0, 1), (2, 3)]


def test_padding_and_sizes():
  """Padded frames that count; codebooks of different size mixed up."""
  random = np.random.default_rng(9)
  lengths = random.integers(20, 60, 24)
  clips = [random.integers(0, (3, 9, 5), (n, 3)) for n in lengths]
  codes, mask = code_rows.pad(clips)
  assert codes.shape == (24, lengths.max(), 3)
  np.testing.assert_array_equal(mask.sum(1), lengths)
  more = np.pad(codes, ((0, 0), (0, 9), (0, 0)), constant_values=-7)
  more[:, : mask.shape[1]][~mask] = 99
  more_mask = np.pad(mask, ((0, 0), (0, 9)))
  for pattern in (None, patterns.delay(3)):
    a = code_rows.gather(codes, (3, 9, 5), pattern=pattern, mask=mask)[0]
    b = code_rows.gather(more, (3, 9, 5), pattern=pattern, mask=more_mask)[0]
    assert len(a) == lengths.sum() - (0 if pattern is None else 2 * 24)
    for name in ("codes", "clip", "frames", "piece"):
      np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
  np.testing.assert_array_equal(
    a.codes,
    np.concatenate(
      [np.stack([c[2:, 0], c[1:-1, 1], c[:-2, 2]], 1) for c in clips]
    ),
  )
  found = total_correlation(codes, (3, 9, 5), mask=mask)
  np.testing.assert_allclose(found.entropy, np.log2([3, 9, 5]), atol=0.03)
  with pytest.raises(UserError, match="must lie from 0 to"):
    total_correlation(codes, (3, 8, 5), mask=mask)
  with pytest.raises(UserError, match="too short"):
    total_correlation(codes, 9, mask=np.zeros_like(mask))


def test_shuffles_keep_the_order_in_time():
  """A shuffle that loses rows, or cuts clips."""
  codes, mask = code_rows.pad(
    [uniform(i, 2, 8, (1, 20 + i))[0] for i in range(12)]
  )
  rows = code_rows.gather(codes, 8, mask=mask)[0]
  order = rows.shuffled(np.random.default_rng(0))
  np.testing.assert_array_equal(
    np.sort(order, 0), np.arange(len(rows))[:, None] + [[0, 0]]
  )
  assert (np.diff(order, axis=0) == 1).mean() > 0.93
  assert (order[:, 0] == order[:, 1]).mean() < 0.5
  few = code_rows.gather(codes[:2], 8, mask=mask[:2])[0]
  turned = [few.shuffled(np.random.default_rng(i))[0, 0] for i in range(9)]
  assert len(set(turned)) > 4  # two clips have only two orders


def test_units():
  """Few clips that cannot be held out; a unit of two clips; pieces cut."""
  rows = code_rows.gather(uniform(0, 2, 8, (3, 100)), 8)[0]
  unit = rows.units()
  assert len(np.unique(unit)) == 21
  assert all(len(np.unique(rows.clip[unit == u])) == 1 for u in range(21))
  many = code_rows.gather(uniform(0, 2, 8, (30, 10)), 8)[0]
  np.testing.assert_array_equal(many.units(), many.clip)
  codes = uniform(0, 2, 8, (30, 10))
  ten = code_rows.gather(codes, 8, pieces=np.arange(30) % 10)[0]
  np.testing.assert_array_equal(ten.units(), ten.clip % 10)
