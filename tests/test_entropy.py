"""Entropy coding of codes.

Catches: codes that come back changed, bytes that differ between releases or
machines, coding that does not learn or does not use its contexts, probabilities
that do not sum to what the coder scales them to, and bytes that crash it.
"""

import zlib

import numpy as np
import pytest
from coded_streams import lively_codes

from mmdcodec.bitstream import entropy
from mmdcodec.bitstream.packing import packed_bytes

CODINGS = ("adaptive", "conditional")


def bits(parts) -> int:
  return 8 * sum(len(part) for part in parts)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [2, 3, 64, 1024, 16384])
def test_codes_come_back(coding, size):
  """A symbol that cannot be coded, in codebooks of any size and content."""
  rng = np.random.default_rng(size)
  random = rng.integers(0, size, (70, 4))
  edges = rng.choice([0, size - 1], (200, 4), p=[0.9, 0.1])
  for codes in (random, edges, random[:1], np.full((130, 1), size - 1)):
    parts = entropy.encode(codes, size, coding)
    back = entropy.decode(parts, len(codes), size, coding)
    np.testing.assert_array_equal(back, codes)
    # Never larger than packed.
    most = packed_bytes(len(codes), 1, size)
    assert max(len(part) for part in parts) <= most


# Frozen, for files must be read for ever.
GOLDEN = {
  "adaptive": [
    "7c0400107854e82fedd21f33411f4ae80d5d6b973432f0bb28ffb43c",
    "7c0400107854e82fedd21f33411f4ae80d5d6b973432f0bb28ffb43c",
    "7c0400107854e82fedd21f33411f4ae80d5d6b973432f0bb28ffb43c",
  ],
  "conditional": [
    "ea0e0010bf1732a4f1f160d20608487af6d2e8358e7a50b337a46511",
    "e61c00102b5704c47a5c539ee2f9698f5826723c",
    "472200101a51a08078a736582ed355265ede38ff",
  ],
}
LARGE = {"adaptive": 2082469311, "conditional": 113331472}


@pytest.mark.parametrize("coding", CODINGS)
def test_bytes_are_frozen(coding):
  """A coder, a library or a machine that writes or reads other bytes."""
  t, k = np.mgrid[:60, :3]
  codes = t // 9 * 5 % 8 + (t * (k + 2) % 7 == 0)
  parts = entropy.encode(codes, 16, coding)
  assert [part.hex() for part in parts] == GOLDEN[coding]
  golden = [bytes.fromhex(part) for part in GOLDEN[coding]]
  np.testing.assert_array_equal(entropy.decode(golden, 60, 16, coding), codes)
  t, k = np.mgrid[:300, :4]
  codes = (t // 7 * 37 + t % 5 * (k + 1)) % 1024 % 300
  parts = entropy.encode(codes, 1024, coding)
  assert zlib.crc32(b"".join(parts)) == LARGE[coding]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [2, 100, 16384])
def test_probabilities_are_whole_numbers_of_the_right_sum(coding, size):
  """A probability that the coder would round, as each machine likes."""
  codes = lively_codes(150, 3, size) if size > 2 else np.zeros((150, 3), int)

  def code(t, row):
    assert row.dtype == np.float32 and (row >= 0).all()
    assert (row == np.floor(row)).all()
    assert row.astype(np.int64).sum() == 2**24 - size
    # In float32, in order, as the coder adds them.
    assert np.cumsum(row)[-1] == 2**24 - size
    return int(codes[t, 2])

  entropy._predict(codes, 2, size, coding == "conditional", code)


def test_mixture_is_the_formula():
  """Integers that drift away from the probabilities they stand for."""
  codes = lively_codes(200, 3, 32)
  k, size = 2, 32
  rows = []

  def code(t, row):
    rows.append((row + 1.0) / 2**24)
    return int(codes[t, k])

  entropy._predict(codes, k, size, True, code)
  expected = slow_mixture(codes, k, size)
  np.testing.assert_allclose(np.array(rows), expected, rtol=2e-3, atol=1e-5)


def slow_mixture(codes, k, size):
  """The docstring of the module in float64, for the third codebook on."""
  b, share, tables = 24, 2.0**-7, [{} for _ in range(6)]
  trust, out = np.full(6, 1 / 6), []
  for t, x in enumerate(codes[:, k]):
    above, low = codes[t, k - 1], codes[t, k - 2]
    last = codes[t - 1, k] if t else -1
    keys = [(), last, above, low, (last, above), (above, low)]
    found = [
      table.get(key, np.zeros(size))
      for table, key in zip(tables, keys, strict=True)
    ]
    p = [(found[0] + 1) / (found[0].sum() + size)]
    parents = [(0, 0), (0, 0), (0, 0), (1, 2), (2, 3)]
    for n, (i, j) in zip(found[1:], parents, strict=True):
      p.append((n + b * (p[i] + p[j]) / 2) / (n.sum() + b))
    p = np.array(p)
    out.append(trust @ p / trust.sum())
    trust = trust * p[:, x] / (trust @ p[:, x] / trust.sum())
    trust = trust * (1 - share) + share / 6
    for table, key, n in zip(tables, keys, found, strict=True):
      n = n.copy()
      n[x] += 1
      table[key] = n
  return np.array(out)


def test_what_there_is_to_learn_is_learned():
  """Counting or conditions without effect."""
  codes = lively_codes(1500, 4, 64)
  raw = codes.size * 6
  adaptive, conditional = (
    bits(entropy.encode(codes, 64, coding)) for coding in CODINGS
  )
  # 12 of 64 codes are in use: log2(12) = 3.6 of 6 bits; two thirds repeat.
  assert adaptive < 0.65 * raw
  assert conditional < 0.75 * adaptive
  # Each context alone must be worth something.
  rng = np.random.default_rng(0)
  steps = np.cumsum(rng.random((1500, 1)) < 0.1, 0) * 7 % 64
  same_frame = np.repeat(rng.integers(0, 64, (1500, 1)), 2, 1)
  assert bits(entropy.encode(steps, 64, "conditional")) < 0.4 * 1500 * 6
  first, second = entropy.encode(same_frame, 64, "conditional")
  assert len(second) < 0.4 * len(first)


def test_upper_codebooks_do_not_touch_lower_ones():
  """Codebooks that cannot be dropped from a file."""
  codes = lively_codes(100, 4, 64)
  for coding in CODINGS:
    parts = entropy.encode(codes, 64, coding)
    assert entropy.encode(codes[:, :2], 64, coding) == parts[:2]
    back = entropy.decode(parts[:2], 100, 64, coding)
    np.testing.assert_array_equal(back, codes[:, :2])


def test_bytes_that_nobody_wrote():
  """A coder that crashes, or returns codes outside of their codebook."""
  rng = np.random.default_rng(0)
  for trial in range(60):
    data = rng.bytes(int(rng.integers(0, 40)))
    try:
      codes = entropy.decode([data], 33, 1000, CODINGS[trial % 2])
    except ValueError:
      continue
    assert 0 <= codes.min() <= codes.max() < 1000


def test_a_collapsed_codebook_below_changes_nothing():
  """Other counts where they are kept as a row, in codebooks over a dead one."""
  rng = np.random.default_rng(3)
  lively = rng.zipf(1.3, 1200) % 300
  codes = np.stack([np.zeros_like(lively), lively, lively[::-1]], 1)
  sums = []

  def code(t, row):
    sums.append(int(row.astype(np.int64) @ np.arange(1, 301)))
    return int(codes[t, 1])

  entropy._predict(codes, 1, 300, True, code)
  most, entropy._MANY = entropy._MANY, 10**9
  try:
    rows, sums = sums, []
    entropy._predict(codes, 1, 300, True, code)
  finally:
    entropy._MANY = most
  assert rows == sums
  parts = entropy.encode(codes, 300, "conditional")
  back = entropy.decode(parts, 1200, 300, "conditional")
  np.testing.assert_array_equal(back, codes)
