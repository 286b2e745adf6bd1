"""Normalised dHSIC of code vectors, on codes with known dependence.

Defects that these tests must catch: a normalisation that is not 1 for copies,
rows of the wrong frames, idle codebooks that hide or invent dependence.
"""

import numpy as np
import pytest
from known_codes import SIZE, copies, draw, uniform

from mmdcodec import patterns
from mmdcodec.evaluate import code_rows, kernel_dependence


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
