"""Conditions whose vectors are added to the music at the same time.

Must catch: vectors that reach the wrong step, in training or in the decoding
loop; the tokens of a frame that no step has yet; crops that begin within a
frame of tokens; ratios of frame rates that are not those of the data.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_music import random_params

from mmdcodec import patterns
from mmdcodec.data import token_batches
from mmdcodec.errors import UserError
from mmdcodec.generation import windows
from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.generation.token_sampler import TokenSampler
from mmdcodec.models import token_lm
from mmdcodec.models.condition import make_conditions
from mmdcodec.models.conditioning import Conditioner
from mmdcodec.train import token_data

PATTERNS = ("parallel", "delay", "flatten")
SEMANTIC = dict(
  kind="tokens", size=5, frames=4, frame_rate=25.0, codebooks=2, added_to=2
)


def make(pattern="delay", **changes):
  """A tiny model of 3 codebooks with a condition at half its frame rate."""
  fields = dict(
    token_lm.preset("musiclm_coarse_tiny"), codebooks=3, frames=8, width=8,
    layers=1, hidden=16, pattern={"name": pattern},
    conditions={"semantic": SEMANTIC},
  )  # fmt: skip
  model = token_lm.from_config({**fields, **changes})
  return model, jax.device_put(random_params(model))


def some_inputs(model, batch=2):
  (condition,) = model.make_conditions()
  items = np.random.default_rng(0).integers(0, 5, (batch, 4, 2))
  return {condition.name: condition.arrays(condition.check(items, 0), 0.0)}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_step_gets_the_tokens_of_the_frame_it_predicts(pattern):
  """Catches steps off by one: each sees its own frame's tokens, none later."""
  model, params = make(pattern)
  inputs = some_inputs(model, 1)
  arranged = model.pattern_of(8)
  tokens = arranged.build(np.ones((1, 8, 3), np.int32), model.special)

  @jax.jit
  def logits(vectors):
    encoded = Conditioner(**model.conditioner_fields()).apply(
      {"params": params["conditioner"]}, inputs
    )
    return model.apply(
      {"params": params}, tokens[:, :-1], frames=arranged.frame_of_step,
      encoded=encoded.replace(added=encoded.added + vectors),
    )  # fmt: skip

  slopes = jax.jit(jax.jacrev(lambda v: logits(v)[0].sum((-1, -2))))(
    jnp.zeros((1, 8, model.width))
  )
  reached = np.abs(slopes).max((1, 3)) > 1e-9
  for step, entries in enumerate(arranged.steps):
    frame = max(frame for frame, _ in entries)
    assert reached[step, : frame + 1].all()
    assert not reached[step, frame + 1 :].any()


def test_both_frames_of_a_token_get_its_vector():
  """Catches a token that is stretched to the wrong frames, and padding."""
  model, params = make()
  inputs = some_inputs(model, 1)
  inputs["semantic"]["lengths"] = np.array([3], np.int32)
  encoded = Conditioner(**model.conditioner_fields()).apply(
    {"params": params["conditioner"]}, inputs
  )
  table = params["conditioner"]["semantic_embedding"]
  tokens = inputs["semantic"]["tokens"][0]
  want = np.zeros((8, model.width), np.float32)
  for frame in range(6):
    want[frame] = table[0, tokens[frame // 2, 0]]
    want[frame] += table[1, tokens[frame // 2, 1]]
  np.testing.assert_allclose(encoded.added[0], want, atol=1e-6)
  assert encoded.prefix is None
  # Nothing is known of the music after the last token.
  np.testing.assert_array_equal(encoded.at(np.array([8, 100])), 0)


@pytest.mark.parametrize(
  # The last block of a prompt of 7 frames reaches beyond the last step.
  "window, prompt",
  ((0, 3), (3, 3), (6, 7)),
)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_sampling_is_that_of_training(pattern, window, prompt, compile_fast):
  """Catches a loop that adds the vectors of other steps, also to a prompt."""
  model, params = make(pattern, window=window)
  inputs = some_inputs(model)
  codes = np.full((2, 8, 3), -1, np.int32)
  codes[:, :prompt] = np.random.default_rng(1).integers(
    0, model.codebook_size, (2, prompt, 3)
  )
  sampler = TokenSampler(model, params)
  state = sampler.start(codes, jax.random.split(jax.random.key(0), 2))
  greedy = SamplingOptions(top_k=1, guidance=1.0)
  *_, state = sampler.sample_window(
    state, sampler.next_window(state, 4), inputs, greedy
  )
  arranged = model.pattern_of(8)
  tokens = arranged.build(state.codes, model.special)
  logits = jax.jit(model.apply)(
    {"params": params}, tokens[:, :-1], inputs, frames=arranged.frame_of_step
  )
  want = np.asarray(arranged.revert_logits(logits)).argmax(-1)
  np.testing.assert_array_equal(state.codes[:, prompt:], want[:, prompt:])
  # And the condition matters.
  nothing = model.no_conditions(2)
  other = jax.jit(model.apply)(
    {"params": params}, tokens[:, :-1], nothing, frames=arranged.frame_of_step
  )
  assert np.abs(other - logits).max() > 1e-3


def test_without_frames():
  """Catches a model that leaves out its condition."""
  model, params = make()
  with pytest.raises(ValueError, match="give frames"):
    model.apply(
      {"params": params}, jnp.zeros((2, 3, 3), int), some_inputs(model)
    )


def test_frames_of_steps():
  """Catches frames of other steps, and of empty ones."""
  delayed = patterns.make("delay", 3, delays=(1, 2, 2))(3)
  np.testing.assert_array_equal(delayed.frame_of_step, [0, 0, 1, 2, 2])
  flat = patterns.make("flatten", 2)(2)
  np.testing.assert_array_equal(flat.frame_of_step, [0, 0, 1, 1])
  # Out of the order of time, a step has the time of its own frame.
  first = patterns.make("coarse_first", 2)(3)
  np.testing.assert_array_equal(first.frame_of_step, [0, 1, 2] * 2)


@pytest.mark.parametrize(
  "changes, message",
  (
    (dict(frame_rate=0.0), "needs a frame_rate"),
    (dict(collapse=True), "exclude each other"),
  ),
)
def test_conditions_that_cannot_be_added(changes, message):
  """Catches tokens that are added without a time of their own."""
  with pytest.raises(UserError, match=message):
    make_conditions({"semantic": {**SEMANTIC, **changes}})


@pytest.mark.parametrize(
  "rate, added_to, advice", ((50.0, 3, "added_to=2"), (75.0, 2, "added_to=3"),
    (60.0, 2, "added_to=0, which makes it a prefix"))
)  # fmt: skip
def test_ratios_of_frame_rates(rate, added_to, advice):
  """Catches vectors that drift away from the music."""
  fields = {**SEMANTIC, "added_to": added_to}
  conditions = make_conditions({"semantic": fields})
  config = {"data": {"frame_rate": rate, "streams": ""}}
  with pytest.raises(UserError, match=advice):
    token_data.check(config, make()[0], conditions, [])


def test_codes_without_repeats_have_no_time():
  with pytest.raises(UserError, match="conditions.semantic.added_to=0"):
    make(collapse=True)


@pytest.mark.parametrize("grid", (1, 2, 3))
def test_windows_begin_with_a_frame_of_tokens(grid):
  """Catches vectors that are shifted within a window, and lost music."""
  found = windows.plan(40, 8, 5, (11, 25), grid)
  new = 0
  for window, first in found:
    assert window.start % grid == 0 and window.end - window.start <= 8
    assert first == new and window.start <= new < window.end
    new = window.end
  assert new == 40 and {11, 25} <= {window.end for window, _ in found}
  # With a grid that no window can keep, there is still music.
  assert windows.plan(40, 8, 5, (), 64)[-1][0].end == 40
  model, params = make()
  state = TokenSampler(model, params).start(
    np.full((1, 30, 3), -1, np.int32), jax.random.split(jax.random.key(0), 1)
  )
  assert model.grid == 2
  state = dataclasses.replace(state, done=8)
  assert TokenSampler(model, params).next_window(state, 5).start == 4


def test_crops_begin_with_a_frame_of_tokens():
  """Catches crops that begin between two frames of a slow condition."""

  class Source:
    frame_rate = 50.0

    def __getitem__(self, index):
      return {"codes": np.arange(100)[:, None]}

  conditions = make_conditions({"semantic": {**SEMANTIC, "added_to": 7}})
  starts = {
    token_batches.crop(Source(), 0, where, 8, conditions)["codes"][0, 0]
    for where in np.linspace(0, 0.999, 50)
  }
  assert len(starts) > 10 and not any(start % 7 for start in starts)
