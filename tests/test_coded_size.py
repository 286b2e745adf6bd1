"""The adaptive coder, against a slow one and on codes with known contexts.

Defects that these tests must catch: a coder that knows the future, the wrong
codebook or frame as context, bits of a frame taken for those of all.
"""

import numpy as np
import pytest

from mmdcodec.evaluate import code_rows, coded_size


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
  gap = found.alone.sum() - found.earlier.sum()
  assert gap == pytest.approx(2.8, abs=0.15)
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
