"""Measures of dependence on codes whose dependence is known exactly.

Defects that these tests must catch: dependence where there is none (a network
that overfits, rows held out beside their neighbours in time, histograms of few
rows, slow codes), or none where there is (XOR, delayed codes); values that are
not the true ones.
"""

import numpy as np
import pytest
from known_codes import (
  CLIPS,
  FRAMES,
  SIZE,
  copies,
  draw,
  entropy,
  exact,
  noisy_sum,
  uniform,
  xor,
)

from mmdcodec import patterns
from mmdcodec.errors import UserError
from mmdcodec.evaluate import code_rows
from mmdcodec.evaluate.mutual_information import mutual_information
from mmdcodec.evaluate.total_correlation import total_correlation

# Few programs that run long.
pytestmark = pytest.mark.usefixtures("optimized")


def test_copies_in_closed_form():
  """Nats for bits, a missing codebook, a wrong marginal: values are off."""
  p, size = 0.5, SIZE
  joint = copies(p)
  q = p + (1 - p) / size
  given = entropy(np.array([q] + [(1 - p) / size] * (size - 1)))
  assert exact(joint)[0] == pytest.approx(2 * (np.log2(size) - given))
  codes = draw(joint, 0)
  found = total_correlation(codes, size)
  true, pairs = exact(joint)
  assert true - 0.06 < found.bits < true + 3 * found.error
  assert 0.005 < found.error < 0.1
  np.testing.assert_allclose(found.entropy, 3.0, atol=0.01)
  assert found.per_codebook[0] == 0 and found.per_codebook[1:].min() > 0.5
  assert found.share == pytest.approx(found.bits / 9, rel=0.01)
  table = mutual_information(codes, size)
  off = ~np.eye(3, dtype=bool)
  low, high = table.interval
  assert ((low < pairs) & (pairs < high))[off].all()
  assert (table.error[off] < 0.05).all() and table.significant[off].all()
  assert np.isnan(table.bits.diagonal()).all()


def test_noisy_sum_by_enumeration():
  """Only pairs are looked at, or the marginals are taken as uniform."""
  joint = noisy_sum()
  true, pairs = exact(joint)
  found = total_correlation(draw(joint, 1), SIZE)
  assert true > 10 * np.nansum(pairs) / 6
  assert true - 0.08 < found.bits < true + 3 * found.error
  np.testing.assert_allclose(
    found.entropy[0], entropy(joint.sum((1, 2))), atol=0.02
  )


@pytest.mark.parametrize(
  "noise", [pytest.param(0.0, marks=pytest.mark.slow), 0.2]
)
def test_xor_is_seen_by_total_correlation_only(noise):
  """A bound made of pairs: they see nothing of XOR."""
  joint = xor(noise)
  codes = draw(joint, 2)
  found = total_correlation(codes, 2)
  true = exact(joint)[0]
  assert true - 0.02 < found.bits < true + 3 * found.error + 1e-3
  assert found.per_codebook[:2].max() < 0.01
  table = mutual_information(codes, 2)
  assert not table.significant.any()
  assert np.nanmax(np.abs(table.bits)) < 1e-3


def test_independent_codes():
  """Overfitting that is reported, up or down; seeds that do nothing."""
  codes = uniform(3)
  found = total_correlation(codes, SIZE)
  assert abs(found.bits) < 0.01 and found.error < 0.01
  again = total_correlation(codes, SIZE)
  assert again.bits == found.bits and again.error == found.error
  other = total_correlation(codes, SIZE, seed=1)
  assert abs(other.bits) < 0.01
  assert (other.entropy != found.entropy).any()


def test_rare_codes_are_no_dependence():
  """A marginal so smooth that the network gains by mending it."""
  p = 1 / np.arange(1, 257) ** 1.5
  random = np.random.default_rng(4)
  codes = random.choice(256, (20, 100, 3), p=p / p.sum())
  found = total_correlation(codes, 256)
  assert -0.03 < found.bits < 0.01
  table = mutual_information(codes, 256)
  # Chance alone makes much of it, and all of that is taken off.
  assert np.nanmin(table.null) > 0.3
  assert np.nanmax(np.abs(table.bits)) < 0.05 and not table.significant.any()


def test_false_alarms_are_rare():
  """A level that is not kept with many pairs."""
  alarms = sum(
    mutual_information(uniform(100 + i, 6, 4, (12, 30)), 4).significant.any()
    for i in range(60)
  )
  assert alarms <= 9  # 3 expected; more than 9 in 0.1% of all cases


@pytest.mark.parametrize("clips", [40, 3])
def test_slow_codes_are_no_dependence(clips):
  """Rows shuffled one by one: slow streams would all seem dependent."""
  random = np.random.default_rng(5)
  alarms = 0
  for _ in range(10):
    # Codes stay for 20 frames on average, each for itself.
    codes = random.integers(0, SIZE, (clips, FRAMES, 3))
    for t in range(1, FRAMES):
      stay = random.random((clips, 3)) < 0.95
      codes[:, t] = np.where(stay, codes[:, t - 1], codes[:, t])
    table = mutual_information(codes, SIZE)
    alarms += table.significant.any()
  assert alarms <= 2
  assert np.nanmean(table.null) > 0.01 * 40 / clips
  assert abs(total_correlation(codes, SIZE).bits) < 0.1


def test_clips_are_held_out_whole():
  """Rows held out beside their neighbours: what is of one clip would count.

  In every clip the second code is a function of the first, in each another
  one, so that a row of an unknown clip says nothing.
  """
  random = np.random.default_rng(6)
  table = random.integers(0, SIZE, (CLIPS, SIZE))
  first = random.integers(0, SIZE, (CLIPS, FRAMES))
  second = np.take_along_axis(table, first, 1)
  found = total_correlation(np.stack([first, second], -1), SIZE)
  assert found.bits < 0.1


def test_clips_of_one_piece_are_held_out_together():
  """What two clips of looping music share, reported as dependence.

  Every piece has four pairs of codes of its own, drawn independently: they
  tell nothing of another piece, but all of the other clip of the same.
  """
  random = np.random.default_rng(19)
  pieces = np.arange(48) % 24
  pairs = random.integers(0, 64, (24, 4, 2))
  at = random.integers(0, 4, (48, 100))
  codes = pairs[pieces[:, None], at]
  assert total_correlation(codes, 64).bits > 0.5
  names = [f"{piece}.wav" for piece in pieces]
  found = total_correlation(codes, 64, pieces=names)
  assert found.bits < 0.1 and found.clips == 24
  rows = code_rows.gather(codes, 64, pieces=names)[0]
  np.testing.assert_array_equal(
    codes.reshape(-1, 2)[rows.clip * 100 + rows.frames[:, 0]], rows.codes
  )
  shuffled = rows.piece[rows.shuffled(random)]
  assert (np.diff(shuffled, axis=0) != 0).sum() == 2 * 23  # no piece is cut
  with pytest.raises(ValueError, match="pieces are"):
    total_correlation(codes, 64, pieces=names[1:])


def test_copied_clips_do_not_make_errors_smaller():
  """Errors as of so many clips, where each is there twice."""
  codes = np.repeat(draw(copies(0.5), 20), 2, 0)
  pieces = np.arange(2 * CLIPS) // 2
  off = np.triu_indices(3, 1)
  once = mutual_information(codes, SIZE).error[off]
  together = mutual_information(codes, SIZE, pieces=pieces).error[off]
  np.testing.assert_allclose(together / once, 2**0.5, rtol=0.15)


def test_error_over_several_kinds_of_step():
  """Catches kinds that count as independent, though of the same pieces."""
  codes = draw(copies(0.5), 9)[..., :2]
  once = total_correlation(codes, SIZE)
  twice = total_correlation(
    np.concatenate([codes, codes], -1),
    SIZE,
    pattern=patterns.unroll(4, [0, 0, 1, 1]),
  )
  assert twice.bits == pytest.approx(2 * once.bits)
  assert twice.error == pytest.approx(2 * once.error)


def test_delayed_dependence():
  """Rows of the wrong frames: off by one, or delayed the wrong way."""
  codes = uniform(7)
  codes[:, :-1, 1] = codes[:, 1:, 0]  # codebook 2 is one frame early
  codes[:, :-2, 2] = codes[:, 2:, 0]
  aligned = total_correlation(codes, SIZE)
  delayed = total_correlation(codes, SIZE, pattern=patterns.delay(3))
  assert abs(aligned.bits) < 0.01
  assert delayed.bits == pytest.approx(6, abs=0.05)
  assert delayed.rows == CLIPS * (FRAMES - 2)
  table = mutual_information(codes, SIZE, pattern=patterns.delay(3))
  np.testing.assert_allclose(table.bits[np.triu_indices(3, 1)], 3, atol=0.03)
  assert not mutual_information(codes, SIZE).significant.any()


def test_patterns_of_several_kinds_of_step():
  """Codebooks that are never predicted together, compared all the same."""
  codes = uniform(8)
  codes[..., 1] = codes[..., 0]
  codes[..., 2] = codes[..., 0]
  late = patterns.coarse_first(3)
  found = total_correlation(codes, SIZE, pattern=late)
  assert found.bits == pytest.approx(3, abs=0.05)
  assert found.per_codebook[1] == 0 and found.entropy[0] == 0
  table = mutual_information(codes, SIZE, pattern=late)
  assert np.isnan(table.bits[0]).all() and table.bits[1, 2] > 2.9
  assert not table.significant[0].any()
  with pytest.raises(UserError, match="one code"):
    total_correlation(codes, SIZE, pattern=patterns.flatten(3))
