"""MusicLM's three stages as their configs make them.

Must catch: sizes that are not the published ones; a cache that does not do what
training did; and what went wrong in other implementations: a model that ends
where its crops did, -1 that reaches the next stage, ids of two levels that are
one, codes that only some levels can have, guidance without effect.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mmdcodec.configs import musiclm_coarse, musiclm_fine, musiclm_semantic
from random_music import random_params

from mmdcodec.errors import UserError
from mmdcodec.generation import decoding
from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.generation.token_sampler import TokenSampler
from mmdcodec.models import lm_presets, token_lm
from mmdcodec.models.code_likelihood import nats_of_codes
from mmdcodec.models.conditioning import Conditioner
from mmdcodec.nn import cache
from mmdcodec.nn.transformer import Transformer
from mmdcodec.train.lm_task import LMTask

STAGES = ("semantic", "coarse", "fine")
CONFIGS = {
  "semantic": musiclm_semantic, "coarse": musiclm_coarse, "fine": musiclm_fine
}  # fmt: skip


def make(stage, **changes):
  """A tiny stage with random parameters."""
  fields = token_lm.preset(f"musiclm_{stage}_tiny", width=8, layers=1)
  model = token_lm.from_config({**fields, "hidden": 16, **changes})
  return model, random_params(model)


def some_inputs(model, batch, seed=0):
  """Conditions of which each item has fewer frames than the one before."""
  rng, inputs = np.random.default_rng(seed), {}
  for each in model.make_conditions():
    shape = (batch, each.frames, each.codebooks)
    lengths = each.frames * (batch - np.arange(batch)) // batch
    inputs[each.name] = {
      "tokens": rng.integers(0, each.size, shape).astype(np.int32),
      # Joint tokens are never padded: there is one frame.
      "lengths": np.maximum(lengths, 1).astype(np.int32),
      "given": np.ones(batch, bool),
    }
  return inputs


@pytest.mark.parametrize(
  "stage, millions", zip(STAGES, (430.0, 424.8, 436.3), strict=True)
)
def test_sizes(stage, millions):
  """Catches a stage with more or fewer parameters than its docstring says."""
  config = CONFIGS[stage].get_config().to_dict()
  model = token_lm.from_config(config["model"])
  leaves = jax.tree.leaves(token_lm.shapes(model))
  assert abs(sum(leaf.size for leaf in leaves) / 1e6 - millions) < 0.06
  assert f"{millions:.0f} M" in CONFIGS[stage].__doc__
  assert (model.layers, model.width, model.heads) == (24, 1024, 16)
  assert model.dropout == 0.1 and model.positions == "relative"
  # As long as the published crops, target and conditions alike.
  seconds = {"semantic": 30, "coarse": 10, "fine": 3}[stage]
  assert model.frames == seconds * config["data"]["frame_rate"]
  for each in LMTask(config).conditions:
    if each.name in ("semantic", "coarse"):
      assert each.frames == seconds * each.frame_rate
  melody = config["model"]["conditions"].get("melody")
  assert (melody is None) == (stage != "semantic")
  assert config["melody_dropout"] == 0.5


def test_levels_of_acoustic_stages_are_all_levels():
  """Catches levels that no stage makes, in any size."""
  for size in lm_presets.STAGE_SIZES:
    stages = lm_presets.musiclm_stages(size)
    coarse, fine = stages["coarse"], stages["fine"]
    assert fine["first_codebook"] == coarse["codebooks"]
    before = fine["conditions"]["coarse"]
    assert before["codebooks"] == coarse["codebooks"]
    assert before["size"] == coarse["codebook_size"]
    size = stages["semantic"]["codebook_size"]
    assert coarse["conditions"]["semantic"]["size"] == size


@pytest.mark.parametrize("stage", STAGES)
def test_cached_logits_are_those_of_training(stage, compile_fast):
  """Catches masks or positions of prefixes that depend on batch mates."""
  batch, frames = 3, 4
  model, params = make(stage)
  inputs = some_inputs(model, batch)
  rng = np.random.default_rng(1)
  codes = rng.integers(
    0, model.codebook_size, (batch, frames, model.codebooks)
  ).astype(np.int32)
  tokens = model.pattern_of(frames).build(codes, model.special)
  want = jax.jit(model.apply)({"params": params}, tokens, inputs)

  own = decoding.prepare(model, params)
  transformer = Transformer(**model.transformer_fields())

  encoded = Conditioner(**model.conditioner_fields()).apply(
    {"params": own["conditioner"]}, inputs
  )
  before, steps = encoded.prefix.shape[1], tokens.shape[1]
  valid = np.pad(
    encoded.prefix_mask, ((0, 0), (0, steps)), constant_values=True
  )
  places = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
  embedded = token_lm.embed(tokens, own["embedding"])
  x = np.concatenate([encoded.prefix, embedded], axis=1)

  @jax.jit
  def extend(own, x, held, at, places_of_x):
    return cache.extend(
      transformer, own, x, held, at, places_of_x, valid, places
    )

  held = cache.empty(transformer, own["transformer"], batch, before + steps)
  out, at = [], 0
  for count in (before + 1, *[1] * (steps - 1)):
    y, held = extend(
      own["transformer"], x[:, at : at + count], held, at,
      places[:, at : at + count],
    )  # fmt: skip
    out.append(y[:, -1:])
    at += count
  found = token_lm.logits(
    jnp.concatenate(out, axis=1), own["head"], model.codebooks, jnp.float32
  )
  scale = np.abs(want).max()
  np.testing.assert_allclose(found, want, atol=1e-4 * scale, rtol=0)
  # An item alone, with nothing after its own tokens.
  alone = jax.tree.map(lambda a: a[2:], inputs)
  found = jax.jit(model.apply)({"params": params}, tokens[2:], alone)
  np.testing.assert_allclose(found[0], want[2], atol=1e-4 * scale, rtol=0)


def generate(model, params, frames, inputs=None, **options):
  """Samples codes of two items, window by window."""
  sampler = TokenSampler(model, params)
  codes = np.full((2, frames, model.codebooks), -1, np.int32)
  state = sampler.start(codes, jax.random.split(jax.random.key(0), 2))
  while (window := sampler.next_window(state, model.frames // 2)) is not None:
    *_, state = sampler.sample_window(
      state,
      window,
      inputs or model.no_conditions(2),
      SamplingOptions(**options),
    )
  return state.codes


@pytest.mark.parametrize(
  "stage", ("semantic", pytest.param("fine", marks=pytest.mark.slow))
)
def test_no_crop_ends_the_music(stage, compile_fast):
  """Catches an end token, which crops at random places teach at their end.

  And -1 behind it, in the codes or accepted by the stage that follows.
  """
  model, params = make(stage, frames=6)
  assert params["head"].shape[-1] == model.codebook_size
  # More than twice as long as a crop.
  codes = generate(model, params, 14)
  assert codes.shape[1] == 14
  assert codes.min() >= 0 and codes.max() < model.codebook_size
  assert len(np.unique(codes[:, 6:])) > 2
  (after,) = [
    each
    for each in make("coarse")[0].make_conditions()
    if each.name == "semantic"
  ]
  for bad in (-1, 32):
    with pytest.raises(UserError, match="whole numbers"):
      after.check(np.full((1, 4, 1), bad), 0)


def test_every_level_has_ids_of_its_own():
  """Catches an id that is the special token of one level and a code of another.

  The vector of each step then says which token it has, and at which level.
  """
  model, _ = make("fine")
  books, size = model.codebooks, model.codebook_size + 1
  table = np.arange(books * size, dtype=np.float32).reshape(books, size, 1)
  for level in range(books):
    others = [table[k, 0, 0] for k in range(books) if k != level]
    tokens = np.zeros((1, size, books), np.int32)
    tokens[0, :, level] = np.arange(size)
    found = token_lm.embed(tokens, table)[0, :, 0] - sum(others)
    np.testing.assert_array_equal(found, table[level, :, 0])


@pytest.mark.parametrize("temperature", (0.0, 1.0))
def test_the_last_code_is_a_code_like_others(temperature, compile_fast):
  """Catches a last logit that is kept for an end, at some levels or at all."""
  model, params = make("fine", frames=3)
  # The output of the Transformer is 1, whatever it reads.
  norm = params["transformer"]["norm"]
  norm["scale"], norm["bias"] = 0 * norm["scale"], 0 * norm["bias"] + 1
  head = np.zeros_like(params["head"])
  head[..., -1] = 100.0
  codes = generate(model, {**params, "head": head}, 3, temperature=temperature)
  np.testing.assert_array_equal(codes, model.codebook_size - 1)


@pytest.mark.parametrize(
  "stage",
  (
    pytest.param("semantic", marks=pytest.mark.slow),
    "fine",
  ),
)
def test_guidance_reaches_every_stage(stage, compile_fast):
  """Catches conditions that guidance does not take away."""
  model, params = make(stage, frames=4)
  run = lambda **options: generate(
    model, params, 4, some_inputs(model, 2), temperature=0.0, **options
  )
  assert np.any(run(guidance=8.0) != run(guidance=1.0))


def test_the_loss_is_that_of_targets_alone(compile_fast):
  """Catches conditions or padding that is predicted too."""
  model, params = make("coarse", frames=5)
  rng = np.random.default_rng(0)
  codes = rng.integers(0, model.codebook_size, (2, 5, model.codebooks))
  lengths = jnp.array([5, 3])
  inputs = some_inputs(model, 2)
  run = jax.jit(
    lambda params, lengths: nats_of_codes(
      model, params, jnp.asarray(codes), lengths, inputs
    )
  )
  nats, mask = run(params, lengths)
  assert mask.sum() == 8 * model.codebooks
  assert np.all((nats > 0) == mask)
  # Nothing to predict, nothing to learn, however long the conditions are.
  nothing = lambda params: run(params, jnp.array([0, 0]))[0].sum()
  gradient = jax.grad(nothing)(params)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
