"""Attention over a window, with sinks and without positions, at any length.

Must catch: a token that sees too much or too little; blocks or a ring that are
another function than the mask; a prefix or a sink that is forgotten; memory
that grows with the length.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_music import random_music, random_params

from mmdcodec.errors import UserError
from mmdcodec.generation import sampling
from mmdcodec.generation.musicgen import LoadedMusic
from mmdcodec.generation.token_sampler import TokenSampler
from mmdcodec.models import token_lm
from mmdcodec.models.conditioning import EncodedConditions
from mmdcodec.nn import attention, cache, ring, sliding
from mmdcodec.nn.transformer import Transformer

WINDOW, SINKS, BEFORE = 5, 2, 3
FORMS = {
  "none": dict(positions="none", sinks=SINKS),
  "rotary": dict(positions="rotary", sinks=0, kv_heads=1),
  "relative": dict(positions="relative", sinks=SINKS, kv_heads=1),
}


def make(form="none", **changes):
  """A tiny model, and vectors of a prefix that is padded in one item."""
  fields = dict(FORMS[form], window=WINDOW, cross=False, conditions={})
  model = token_lm.from_config(
    token_lm.preset(
      "tiny", **dict(width=16, hidden=16, frames=8, **fields) | changes
    )
  )
  x = np.random.default_rng(1).normal(size=(2, BEFORE, model.width))
  mask = np.array([[True] * BEFORE, [True] * (BEFORE - 1) + [False]])
  conditions = EncodedConditions(prefix=x.astype(np.float32), prefix_mask=mask)
  return model, random_params(model), conditions


def tokens_of(model, steps):
  shape = (2, steps, model.codebooks)
  return np.random.default_rng(0).integers(0, model.special + 1, shape)


def test_what_a_token_sees():
  """Catches a window that is off by one, and what it should not hide."""
  found = sliding.mask(9, window=3, before=2, sinks=1)[0, 0]
  for i in range(9):
    seen = {0} | {1, 2} & set(range(1, i + 2))
    seen |= {1 + j for j in range(max(0, i - 2), i + 1)}
    assert set(np.flatnonzero(found[i])) == seen


@pytest.mark.parametrize("steps, before, sinks", ((11, 3, 2), (15, 0, 0)))
def test_blocks_are_the_mask(steps, before, sinks):
  """Catches blocks that attend to other tokens than the mask says."""
  rng, count = np.random.default_rng(0), before + steps
  q = rng.normal(size=(2, count, 4, 8)).astype(np.float32)
  k, v = rng.normal(size=(2, 2, sinks + count, 2, 8)).astype(np.float32)
  valid = rng.random((2, count)) < 0.5
  seen = sliding.mask(count, window=WINDOW, before=before, sinks=sinks)
  room = ((0, 0), (sinks, 0))
  padded = np.pad(valid, room, constant_values=True)[:, None, None]
  own = np.eye(count, sinks + count, sinks, dtype=bool)
  want = attention.attend(q, k, v, mask=seen & padded | own)
  band = sliding.Band(jnp.asarray(valid), WINDOW, before, sinks)
  found = sliding.attend(q, k, v, band)
  np.testing.assert_allclose(found, want, atol=1e-5)


def teacher(model, params, tokens, conditions):
  return jax.jit(model.apply)({"params": params}, tokens, encoded=conditions)


def test_blocks_are_the_mask_in_the_model(monkeypatch, compile_fast):
  """Catches blocks that the model feeds with something else."""
  model, params, conditions = make()
  tokens = tokens_of(model, 19)
  found = teacher(model, params, tokens, conditions)
  monkeypatch.setattr(sliding, "pays", lambda window, tokens: False)
  # Another model to `jit`, though not in what it computes.
  model = dataclasses.replace(model, dropout=0.5)
  want = teacher(model, params, tokens, conditions)
  np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())
  # And the window matters.
  wide = teacher(
    dataclasses.replace(model, window=0), params, tokens, conditions
  )
  assert np.abs(wide - want)[:, WINDOW + 1 :].max() > 0.01
  np.testing.assert_allclose(
    wide[:, :WINDOW], want[:, :WINDOW], atol=1e-5 * np.abs(want).max()
  )


@pytest.mark.parametrize(
  "form, apart",
  (
    ("none", True),
    ("none", False),
    ("rotary", False),
    ("relative", True),
  ),
)
def test_a_ring_is_teacher_forcing(form, apart, compile_fast):
  """Catches a ring that keeps what left the window, or loses what did not."""
  model, params, conditions = make(form)
  steps = 28
  tokens = tokens_of(model, steps)
  want = teacher(model, params, tokens, conditions)
  transformer = Transformer(**model.transformer_fields())
  own = jax.tree.map(jnp.asarray, params["transformer"])
  own = cache.by_block(own, model.layers) if apart else own
  x = token_lm.embed(tokens, params["embedding"])
  x = jnp.concatenate([conditions.prefix, x], axis=1)
  room = ((0, 0), (0, steps + 9))
  valid = np.pad(conditions.prefix_mask, room, constant_values=True)
  place = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
  held = cache.empty(transformer, own, 2, valid.shape[1], BEFORE)
  assert held.keys[0].shape[1] == model.sinks + BEFORE + WINDOW
  x = jnp.pad(x, ((0, 0), (0, 9), (0, 0)), constant_values=7.0)

  @jax.jit
  def run(held):
    out, at = [], 0
    # The last number of a pair is padding, which is to leave no trace.
    for count, extra in (
      (BEFORE + 2, 0), (1, 0), (4, 1), (1, 0), (WINDOW, 0), (11, 3), (1, 0),
      (1, 0), (1, 0), (1, 0),
    ):  # fmt: skip
      new = slice(at, at + count + extra)
      y, held = cache.extend(
        transformer, own, x[:, new], held, jnp.int32(at), place[:, new],
        valid, place, None, jnp.int32(at + count),
      )  # fmt: skip
      out.append(y[:, :count])
      at += count
    assert at == BEFORE + steps
    return jnp.concatenate(out, axis=1)[:, BEFORE:]

  found = token_lm.logits(
    run(held), params["head"], model.codebooks, jnp.dtype(model.dtype)
  )
  np.testing.assert_allclose(
    found, want, atol=1e-5 * np.abs(want).max(), rtol=0
  )


@pytest.fixture(scope="module")
def sampler():
  """A model with joint tokens before the music, and a window."""
  kinds = {"joint": dict(kind="tokens", codebooks=2, size=9)}
  model, params, _ = make(codebooks=2, conditions=kinds, sinks=1, layers=1)
  return TokenSampler(model, params)


def sample(sampler, codes, seeds, stride=None, part=None):
  """All codes, and how often they came."""
  keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
  state, times = sampler.start(codes, keys), 0
  options = sampling.SamplingOptions(top_k=5, guidance=1.0)
  while window := sampler.next_window(state, stride):
    joint = [np.array([[seed, 2]]) for seed in seeds]
    inputs = {"joint": sampler.conditions[0].arrays(joint, 0.0)}
    *_, state = states = list(
      sampler.sample_window(state, window, inputs, options, part)
    )
    times += len(states)
  return state.codes, times


def test_music_of_any_length_in_one_go(sampler, monkeypatch, compile_fast):
  """Catches a ring, a stream or a batch that changes the codes."""
  known = np.full((2, 41, 2), -1)
  # Prompts of which one is longer than the window, even twice.
  random = np.random.default_rng(0)
  known[0, :23] = random.integers(0, 32, (23, 2))
  known[1, :12] = random.integers(0, 32, (12, 2))
  codes, _ = sample(sampler, known, (3, 4))
  assert (codes >= 0).all() and (codes[known >= 0] == known[known >= 0]).all()
  parts, times = sample(sampler, known, (3, 4), part=7)
  assert times > 3
  np.testing.assert_array_equal(parts, codes)
  alone, _ = sample(sampler, known[1:], (4,))
  np.testing.assert_array_equal(alone[0], codes[1])
  # In windows of the training clips they would be others.
  others, times = sample(sampler, known, (3, 4), stride=4)
  assert times > 3 and (others != codes).any()
  # The cache of all tokens, with the same mask; of another model to `jit`.
  monkeypatch.setattr(
    ring, "slots", lambda model, length, before: model.sinks + length
  )
  model = dataclasses.replace(sampler.model, dropout=0.5)
  full = TokenSampler(model, random_params(model))
  np.testing.assert_array_equal(sample(full, known, (3, 4))[0], codes)


def test_memory_is_bounded():
  """Catches a cache that grows with the length of the music."""
  model, params, _ = make()
  transformer = Transformer(**model.transformer_fields())
  size = lambda length: jax.eval_shape(
    lambda: cache.empty(transformer, params["transformer"], 1, length, 2)
  )
  assert size(100) == size(100_000)
  assert size(100).keys.shape[2] == SINKS + 2 + WINDOW


def test_requests(tmp_path):
  """Catches windows where none are needed, and none where some are."""
  kinds = {
    "joint": dict(kind="tokens", codebooks=2, size=9),
    "semantic": dict(kind="tokens", size=9, frames=8, frame_rate=100.0),
  }
  fields = dict(frames=10, conditions=kinds, cross=False, positions="none")
  music = LoadedMusic(*random_music(tmp_path, window=6, **fields))
  semantic = {"semantic": np.zeros((1, 30), int)}
  assert music.check(joint=[[1, 2]]).stride is None
  assert music.check(conditions=semantic).stride == 6
  assert music.check(stride=3 / music.frame_rate).stride == 3


def test_positions_that_end():
  """Catches a window whose positions were never learned."""
  with pytest.raises(UserError, match="sinusoidal positions"):
    make(positions="sinusoidal")
