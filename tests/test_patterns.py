"""Codebook patterns: layouts, round trips, and what is refused."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec import patterns

GOLDEN = json.loads(
  (pathlib.Path(__file__).parent / "data/golden_patterns.json").read_text()
)
MAKERS = {
  "parallel_nq3_T4": patterns.parallel(3),
  "delay_nq4_T6_0123": patterns.delay(4),
  "delay_nq4_T6_0111": patterns.delay(4, (0, 1, 1, 1)),
  "delay_stereo_nq8_T6_00112233": patterns.delay(8, (0, 0, 1, 1, 2, 2, 3, 3)),
  "delay_nq4_T6_flatten_first2": patterns.delay(4, flatten_first=2),
  "delay_nq4_T6_empty_initial2": patterns.delay(4, empty_initial=2),
  "unroll_nq3_T4_012": patterns.flatten(3),
  "unroll_nq3_T4_011": patterns.unroll(3, (0, 1, 1)),
  "unroll_nq3_T4_011_d033": patterns.unroll(3, (0, 1, 1), (0, 3, 3)),
  "coarse_first_nq3_T4": patterns.coarse_first(3),
  "coarse_first_nq3_T4_d01": patterns.coarse_first(3, (0, 1)),
  "musiclm_nq4_T3_g2": patterns.grouped(4, 2),
}


def test_every_golden_layout_has_a_maker():
  """Catches a layout that is silently left out."""
  assert MAKERS.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_layouts_are_the_golden_ones(name):
  """Catches a wrong step of any entry."""
  golden = GOLDEN[name]
  pattern = MAKERS[name](golden["T"])
  codes = np.arange(1, golden["T"] + 1)[:, None].repeat(golden["n_q"], 1)
  tokens = pattern.build(codes, special=0)
  np.testing.assert_array_equal(tokens, np.transpose(golden["seq"]))
  assert len(pattern.steps) == golden["num_sequence_steps"]
  np.testing.assert_array_equal(pattern.revert(tokens), codes)


@pytest.mark.parametrize("name", GOLDEN)
def test_random_round_trips(name):
  """Catches codes that swap place, and special tokens in the wrong place."""
  golden = GOLDEN[name]
  random = np.random.default_rng(0)
  for frames in (1, 5, 33):
    pattern = MAKERS[name](frames)
    codes = random.integers(0, 9, (2, frames, golden["n_q"]))
    tokens = jax.jit(lambda c, p=pattern: p.build(c, 9))(codes)
    np.testing.assert_array_equal(pattern.revert(tokens), codes)
    # Each code once, special tokens everywhere else.
    assert (tokens != 9).sum() == codes.size
    np.testing.assert_array_equal(tokens[:, 0], 9)
  # A vector per code works as well as a number does: gradients pass.
  back = jax.grad(lambda c: pattern.build(c, 0.0).sum())(codes * 1.0)
  np.testing.assert_array_equal(back, 1.0)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_go_to_the_code_that_they_predict(name):
  """Catches logits of a step before or after the one that says the code."""
  golden = GOLDEN[name]
  pattern = MAKERS[name](golden["T"])
  random = np.random.default_rng(0)
  codes = random.integers(0, 9, (2, golden["T"], golden["n_q"]))
  # A model that is sure of the next step, and of something else elsewhere.
  tokens = np.asarray(pattern.build(codes, 9))
  logits = np.eye(10)[tokens[:, 1:]] + 0.5 * random.random((10,))
  found = jax.jit(pattern.revert_logits)(logits)
  assert found.shape == (*codes.shape, 10)
  np.testing.assert_array_equal(np.argmax(found, axis=-1), codes)
  with pytest.raises(ValueError, match="size"):
    pattern.revert_logits(logits[:, :-1])


def test_groups_are_what_a_step_predicts():
  """Catches rows of other frames, rows beyond the clip, partial rows."""
  ((held, rows),) = patterns.delay(4)(10).groups
  assert held == (0, 1, 2, 3)
  np.testing.assert_array_equal(rows, np.arange(3, 10)[:, None] - np.arange(4))
  ((held, rows),) = patterns.parallel(3)(5).groups
  np.testing.assert_array_equal(rows, np.arange(5)[:, None].repeat(3, 1))
  # The first codebook comes alone, the other two of a frame together.
  ((held, rows),) = patterns.coarse_first(3)(4).groups
  assert held == (1, 2)
  np.testing.assert_array_equal(rows, np.arange(4)[:, None].repeat(2, 1))
  assert patterns.flatten(4)(6).groups == ()
  assert patterns.grouped(4, 2)(6).groups == ()
  coarse = patterns.grouped(12, (4, 8))(3)
  assert len(coarse.steps) == 36
  assert {k for step in coarse.steps[:12] for _, k in step} == {0, 1, 2, 3}


@pytest.mark.parametrize(
  "steps, words",
  [
    ((((0, 0),), ((1, 0),)), "no step"),
    ((((0, 0), (0, 1)), ((0, 0), (1, 1))), "one after the other"),
    ((((0, 0), (1, 0)), ((0, 1), (1, 1))), "twice"),
    ((((1, 0), (0, 1)), ((0, 0), (1, 1))), "one after the other"),
    ((((0, 0), (0, 2)),), "2 codebooks"),
  ],
)
def test_impossible_patterns_are_refused(steps, words):
  """Catches a pattern that loses or repeats a code, or looks back in time."""
  with pytest.raises(ValueError, match=words):
    patterns.Pattern(2, 2, steps)


@pytest.mark.parametrize(
  "make, words",
  [
    (lambda: patterns.delay(3, (0, 1)), "3 numbers"),
    (lambda: patterns.delay(3, (0, -1, 2)), "negative"),
    (lambda: patterns.delay(3, (2, 1, 0)), "ascend"),
    (lambda: patterns.unroll(3, (0, 1, 1), (0, 1, 2)), "same delay"),
    (lambda: patterns.grouped(5, 2), "groups"),
    (lambda: patterns.delay(2)(4).build(jnp.zeros((4, 3)), 0), "do not end"),
    (lambda: patterns.delay(2)(4).revert(jnp.zeros((4, 2))), "do not end"),
  ],
)
def test_impossible_arguments_are_refused(make, words):
  """Catches settings that would be read as others."""
  with pytest.raises(ValueError, match=words):
    make()
