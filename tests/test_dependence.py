"""Measures of dependence on codes whose dependence is known exactly.

Defects that these tests must catch: dependence where there is none (a network
that overfits, rows held out beside their neighbours in time, histograms of few
rows, slow codes), or none where there is (XOR, delayed codes); values that are
not the true ones; padding that counts; a coder that knows the future.
"""

import io
import itertools
import json

import numpy as np
import pytest

import mmdcodec
from mmdcodec.cli import evaluate_dependence
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.evaluate import (
  code_rows,
  coded_size,
  dependence,
  dependence_plots,
  kernel_dependence,
)
from mmdcodec.evaluate.mutual_information import mutual_information
from mmdcodec.evaluate.total_correlation import total_correlation
from mmdcodec.generation import patterns

CLIPS, FRAMES, SIZE = 40, 200, 8


def uniform(seed, books=3, size=SIZE, shape=(CLIPS, FRAMES)):
  return np.random.default_rng(seed).integers(0, size, (*shape, books))


def entropy(p):
  p = np.ravel(p)[np.ravel(p) > 0]
  return -np.sum(p * np.log2(p))


def exact(joint):
  """Total correlation, and mutual information of pairs, of a distribution."""
  books = joint.ndim
  axes = set(range(books))
  alone = [entropy(joint.sum(tuple(axes - {k}))) for k in range(books)]
  pairs = np.full((books, books), np.nan)
  for i, j in itertools.permutations(range(books), 2):
    both = entropy(joint.sum(tuple(axes - {i, j})))
    pairs[i, j] = alone[i] + alone[j] - both
  return sum(alone) - entropy(joint), pairs


def draw(joint, seed):
  """Codes of independent frames from a distribution."""
  p = joint.ravel()
  at = np.random.default_rng(seed).choice(
    p.size, (CLIPS, FRAMES), p=p / p.sum()
  )
  return np.stack(np.unravel_index(at, joint.shape), -1)


def copies(p, size=SIZE):
  """Codebooks 2 and 3 copy the first one with probability p."""
  given = p * np.eye(size) + (1 - p) / size
  return np.einsum("ab,ac->abc", given, given) / size


def noisy_sum(size=SIZE):
  """The third code is the sum of two uneven ones and one more, or not."""
  first = np.arange(1, size + 1) / np.arange(1, size + 1).sum()
  joint = np.zeros((size,) * 3)
  for a, b, more in itertools.product(range(size), range(size), (0, 1)):
    joint[a, b, (a + b + more) % size] += first[a] / size * (0.3, 0.7)[more]
  return joint


def xor(noise, size=2):
  joint = np.full((size,) * 3, noise / size**3)
  for a, b in itertools.product(range(size), repeat=2):
    joint[a, b, a ^ b] += (1 - noise) / size**2
  return joint


# --- Total correlation and mutual information --------------------------------


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


@pytest.mark.parametrize("noise", [0.0, 0.2])
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


# --- Adaptive coder ----------------------------------------------------------


def slow_coder(x, size, chain, prior, weight):
  """Bits of a sequence, one code after the other, with dictionaries."""
  counts, bits = [{} for _ in range(len(chain) + 1)], 0.0
  for i, code in enumerate(x):
    p = None
    for depth in range(len(chain) + 1):
      context = tuple(part[i] for part in chain[:depth])
      seen = counts[depth].setdefault(context, np.zeros(size))
      if p is None:
        p = (seen + prior / size) / (seen.sum() + prior)
      else:
        p = (seen + weight * p) / (seen.sum() + weight)
    assert p.sum() == pytest.approx(1)  # what is left out is no code
    bits -= np.log2(p[code])
    for depth in range(len(chain) + 1):
      counts[depth][tuple(part[i] for part in chain[:depth])][code] += 1
  return bits


def test_coder_against_a_slow_one():
  """Counts that hold the future or the present code, or of a wrong context."""
  random = np.random.default_rng(10)
  x = random.integers(0, 7, 300) // 2
  a, b = random.integers(0, 3, 300), (x + random.integers(0, 2, 300)) % 4
  for chain in ([], [b], [a, b]):
    expected = [
      slow_coder(x, 5, chain, prior, weight)
      for prior in coded_size.PRIORS
      for weight in (coded_size.WEIGHTS if chain else (1,))
    ]
    found = coded_size.coder_bits(x, 5, chain)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
  # A mixture, code by code, with weights from the past.
  lengths = np.array([10.0, 12.0, 30.0])
  p = 2.0**-lengths
  assert coded_size.mixture_bits([lengths]) == pytest.approx(-np.log2(p.mean()))
  assert coded_size.mixture_bits([np.full(2, 1e6)]) == pytest.approx(1e6)


def test_coded_size_contexts():
  """The wrong codebook or frame as context; bits of a frame or of all."""
  random = np.random.default_rng(11)
  codes = random.integers(0, 8, (20, 200, 3))
  codes[..., 2] = (codes[..., 0] + codes[..., 1]) % 8  # needs both
  found = coded_size.coded_size(codes, 8)
  np.testing.assert_allclose(found.alone, 3, atol=0.02)
  np.testing.assert_allclose(found.earlier, [3, 3, 0.2], atol=0.15)
  assert found.gap == pytest.approx(2.8, abs=0.15)
  slow = np.repeat(random.integers(0, 8, (20, 50, 2)), 4, 1)
  slow = (slow + np.arange(200)[:, None]) % 8  # the code before tells the next
  found = coded_size.coded_size(slow, 8)
  assert (found.previous < 0.65 * found.alone).all()
  for field in ("earlier", "previous", "both"):
    assert (getattr(found, field) < found.alone + 0.01).all()
  # The first row of a clip has nothing before it.
  rows = code_rows.gather(slow, 8)[0]
  before = rows.previous(rows.codes[:, 0], 8).reshape(20, 200)
  assert (before[:, 0] == 8).all()
  np.testing.assert_array_equal(before[:, 1:], slow[:, :-1, 0])


# --- Kernels -----------------------------------------------------------------


def test_kernel_dependence():
  """A normalisation that is not 1 for copies; rows of the wrong frames."""
  random = np.random.default_rng(12)
  embed = random.normal(size=(3, SIZE, 4))
  rows = lambda codes, pattern=None: code_rows.gather(
    codes, SIZE, pattern=pattern
  )[0]
  measure = lambda codes, *pattern: kernel_dependence.kernel_dependence(
    embed, rows(codes, *pattern), limit=500
  )
  same = np.repeat(uniform(13, 1), 3, -1)
  # Copies of the code, with vectors of another shape in each codebook.
  assert 0.5 < measure(same).normalised < 0.95
  alike = embed[[0, 0, 0]] * np.array([1.0, -2.0, 0.1])[:, None, None]
  found = kernel_dependence.kernel_dependence(alike, rows(same), limit=500)
  assert found.normalised == pytest.approx(1, abs=1e-3)
  found = measure(uniform(14))
  assert abs(found.normalised) < 0.02 and abs(found.null) < 0.02
  levels = [measure(draw(copies(p), 15)).normalised for p in (0.3, 0.6, 0.9)]
  assert 0 < levels[0] < levels[1] < levels[2] < 1
  late = uniform(16)
  late[:, :-1, 1], late[:, :-2, 2] = late[:, 1:, 0], late[:, 2:, 0]
  assert abs(measure(late).normalised) < 0.02
  assert measure(late, patterns.delay(3)).normalised > 0.5


def test_idle_codebooks_are_left_out_of_the_kernel_measure():
  """An idle codebook that makes equal ones look independent, or above 1."""
  embed = np.random.default_rng(21).normal(size=(3, SIZE, 4))
  embed[1] = embed[0]
  codes = np.repeat(uniform(22, 1), 3, -1)
  codes[..., 2] = 5
  measure = lambda codes: kernel_dependence.kernel_dependence(
    embed, code_rows.gather(codes, SIZE)[0], limit=500
  )
  found = measure(codes)
  assert found.normalised == pytest.approx(1, abs=1e-3)
  assert abs(found.null) < 0.05 and found.null_error > 0
  assert found.normalised == pytest.approx(measure(codes[..., :2]).normalised)
  codes[0, :20, 2] = 4  # now and then another code
  assert measure(codes).normalised == pytest.approx(1, abs=1e-3)
  codes[..., 1] = 2
  found = measure(codes)
  assert np.isnan([found.normalised, found.null, found.null_error]).all()
  assert np.isfinite(found.loss)


# --- All together ------------------------------------------------------------


@pytest.mark.slow
def test_measure_and_heat_map(tmp_path):
  """Figures that are lost, or no JSON; warnings that do not come."""
  codes = draw(copies(0.5), 17)[:12, :70]
  found = dependence.measure(codes, SIZE)
  assert found.frames == 840 and found.clips == 12
  assert not any("are few" in each for each in found.warnings)
  row = found.summary()
  assert row["aligned/total_correlation"] > 0.8
  assert abs(row["together/total_correlation"]) < 0.1
  assert row["aligned/significant_pairs"] == 3
  assert row["use"] == 1 and row["perplexity"] > 7.8
  parsed = json.loads(json.dumps(found.to_dict(), allow_nan=False))
  assert parsed["aligned"]["pairs"]["bits"][0][0] is None
  only = dependence.measure(
    codes[:3], SIZE, pattern="parallel", pieces=["a", "b", "a"]
  )
  assert only.aligned.total.clips == 20  # 2 pieces in 10 stretches each
  assert only.together is only.aligned
  assert "210 frames are few" in only.warnings[0]
  assert "2 pieces of music are few" in only.warnings[1]

  from matplotlib import image

  path = tmp_path / "map.png"
  pairs = found.aligned.pairs
  drawn = dependence_plots.heat_map({"a": pairs, "b": pairs}, path=path)
  assert path.read_bytes() == drawn
  show = lambda *each: image.imread(
    io.BytesIO(dependence_plots.heat_map(dict(zip("ab", each, strict=False))))
  )
  marked = show(pairs, pairs)
  bare = show(
    pairs,
    type(pairs)(pairs.bits, pairs.error, pairs.null, pairs.significant & False),
  )
  changed = np.abs(marked - bare).max(-1) > 0.1
  middle = marked.shape[1] // 2
  # Dots are gone at the right only.
  assert changed[:, middle:].sum() > 50 and not changed[:, : middle - 60].any()
  empty = mutual_information(
    uniform(0, 12, 2, (4, 9)), 2, pattern=patterns.coarse_first(12)
  )
  assert show(empty).size


def test_a_pattern_is_refused_before_the_work(monkeypatch):
  """Minutes of measures whose results are then thrown away."""
  monkeypatch.setattr(dependence, "_measure", None)  # must not be called
  with pytest.raises(UserError, match="one code"):
    dependence.measure(uniform(0), SIZE, pattern="flatten")
  with pytest.raises(UserError, match="longer clips"):
    dependence.measure(uniform(0)[:, :2], SIZE)


def test_delays_on_the_command_line():
  """Zeros of the wrong number, taken for no pattern at all."""
  assert evaluate_dependence.parse_pattern("0,0,0", 3) is None
  assert evaluate_dependence.parse_pattern("0,1,1", 3)(4).codebooks == 3
  for wrong in ("0", "0,0", "0,0,0,0", "0,1"):
    with pytest.raises(UserError, match="delays"):
      evaluate_dependence.parse_pattern(wrong, 3)


@pytest.mark.slow
def test_command(tmp_path, model, capsys, monkeypatch):
  """Codes or vectors of the wrong clips; a page or results that lack parts."""
  import soundfile

  stride = mmdcodec.load(model).model.stride
  folder = tmp_path / "music"
  folder.mkdir()
  random = np.random.default_rng(0)
  frames = 0
  for i, seconds in enumerate((0.5, 0.7, 0.2)):
    x = 0.1 * random.normal(size=round(8000 * seconds))
    soundfile.write(folder / f"{i}.wav", x, 8000, subtype="FLOAT")
    frames += -(-len(x) // stride)
  argv = ["evaluate", "dependence", "--model", model, "--audio", str(folder)]
  out = tmp_path / "out"
  assert main([*argv, "--out", str(out)]) == 0
  shown = capsys.readouterr().out
  assert "total correlation" in shown and "warning: " in shown
  assert f"{frames:,} frames" in shown
  results = json.loads((out / "results.json").read_text())
  assert results["frames"] == frames and results["about"]["pattern"] == "delay"
  assert results["aligned"]["kernel"]["normalised"] is not None
  assert (out / "dependence.png").read_bytes().startswith(b"\x89PNG")
  page = (out / "report.html").read_text()
  assert page.count("<img") == 2 and "Beware" in page and "dHSIC" in page

  def fails(*more):
    assert main([*argv, *more]) == 2
    return capsys.readouterr().err

  assert "--force" in fails("--out", str(out))
  assert "pattern" in fails("--pattern", "spiral")
  assert "delays" in fails("--pattern", "0,1,2,3,4,5,6,7,8,9")
  assert "two or more" in fails("--codebooks", "1")
  encoded = []
  encode = mmdcodec.bundle.LoadedCodec.encode
  monkeypatch.setattr(
    mmdcodec.bundle.LoadedCodec,
    "encode",
    lambda *args, **kwargs: encoded.append(1) or encode(*args, **kwargs),
  )
  assert "one code" in fails("--pattern", "flatten")
  assert len(encoded) == 1  # not all three clips
  argv[1] = "reconstruction"
  assert "evaluate dependence" in fails("--pattern", "delay")
