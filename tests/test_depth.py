"""The depth transformer: a joint distribution of the codes of a step.

Must catch: a level that sees itself or those after it, or does not see those
before it; sampling that is not of that distribution; known codes that do not
condition the rest; parts that depend on batches, chunks or devices.
"""

import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_music import random_music, random_params

import mmdcodec
from mmdcodec import bundle
from mmdcodec.cli import info
from mmdcodec.errors import UserError
from mmdcodec.generation import decoding, depth_sampling, sampling
from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.generation.token_sampler import TokenSampler
from mmdcodec.models import token_lm
from mmdcodec.models.code_likelihood import nats_of_codes
from mmdcodec.models.depth import DepthTransformer
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules
from mmdcodec.train import config_files
from mmdcodec.train.task import make_task
from mmdcodec.train.trainable import Trainable

DATA = pathlib.Path(__file__).parent / "data"
DEPTH = dict(layers=2, width=16, heads=4, kv_heads=2, hidden=24)
nats_of = jax.jit(nats_of_codes, static_argnums=0)
PLAIN = SamplingOptions(top_k=0, guidance=1.0)


def make(**changes):
  """A tiny model with a depth transformer, and random parameters."""
  fields = dict(
    codebooks=3, codebook_size=4, width=8, layers=1, heads=1, hidden=16,
    cross=False, conditions={}, pattern=dict(name="parallel"), depth=DEPTH,
  )  # fmt: skip
  model = token_lm.from_config(token_lm.preset("tiny", **fields | changes))
  params = random_params(model, scale=0.4)
  if model.depth is not None:
    # Codes that depend on each other much.
    params["depth_transformer"]["embedding"] *= 6
    params["depth_transformer"]["head"] *= 2
  return model, params


def sample(model, params, codes, options=PLAIN, seed=0, part=None, mesh=None):
  """Codes from a prompt with -1 for those to sample, in one window."""
  sampler = TokenSampler(model, params)
  if mesh is not None:
    sampler.place(params, mesh)
  keys = jax.random.split(jax.random.key(seed), len(codes))
  state = sampler.start(np.asarray(codes), keys)
  window = sampler.next_window(state, model.frames - 1)
  *_, state = sampler.sample_window(state, window, {}, options, part)
  return state.codes


def log_shares(model, params, codes):
  """Log probabilities of codes [batch, frames, codebooks], teacher-forced."""
  lengths = np.full(len(codes), codes.shape[1])
  return -np.asarray(nats_of(model, params, codes, lengths, {})[0])


def test_all_joint_codes(compile_fast):
  """Catches a sum that is not 1: a level that sees itself or later ones."""
  model, params = make()
  every = np.array(list(itertools.product(range(4), repeat=3)))[:, None]
  joint = np.exp(log_shares(model, params, every).sum((1, 2)))
  assert abs(joint.sum() - 1) < 1e-5
  # The codes depend on each other.
  cube = joint.reshape(4, 4, 4)
  alone = [cube.sum(axes) for axes in ((1, 2), (0, 2), (0, 1))]
  apart = np.einsum("a,b,c->abc", *alone).ravel()
  assert (joint * np.log(joint / apart)).sum() > 0.1
  drawn = sample(model, params, np.full((4000, 1, 3), -1))[:, 0]
  counts = np.bincount(drawn @ [16, 4, 1], minlength=64)
  statistic = ((counts - 4000 * joint) ** 2 / (4000 * joint)).sum()
  # 63 degrees of freedom: beyond 119 with probability 2e-5.
  assert statistic < 119


def test_levels_against_teacher_forcing(monkeypatch, compile_fast):
  """Catches a small cache, a projection, table or head of another level.

  The steps of a delay pattern, some of which lack codes, in two groups.
  """
  model, params = make(pattern=dict(name="delay"))
  random = np.random.default_rng(0)
  codes = random.integers(0, 4, (5, 3))
  tokens = np.asarray(model.pattern_of(5).build(codes, model.special))[1:]
  assert (tokens == model.special).any(0).all()
  x = random.normal(size=(2 * len(tokens), 1, 8)).astype(np.float32)
  own = params["depth_transformer"]
  both = np.tile(tokens, (2, 1))[:, None]
  want = jax.jit(model.make_depth().apply)({"params": own}, x, both)[:, 0]
  heard = []

  def guide(logits, *_):
    jax.debug.callback(lambda x: heard.append(x[:, 0]), logits, ordered=True)
    return logits[: len(tokens)]

  monkeypatch.setattr(sampling, "guide", guide)

  @jax.jit
  def run(own):
    return depth_sampling.sample(
      model, own, x, tokens, jax.random.split(jax.random.key(0), len(tokens)),
      groups=2, guidance=1.0, double_guidance=1.0, temperature=1.0, top_p=None,
      top_k=0,
    )  # fmt: skip

  for form in (depth_sampling.prepare(model, own), own):
    heard.clear()
    np.testing.assert_array_equal(run(form), tokens)
    jax.effects_barrier()
    found = np.stack(heard, axis=1)
    np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())


def csm_params(weights, heads):
  """CSM's depth decoder, in transformers' names, as parameters of ours."""

  def stacked(name, *shape):
    names = [f"model.layers.{i}.{name}.weight" for i in range(2)]
    each = [weights[name].T for name in names]
    return np.stack([x.reshape(*shape) if shape else x for x in each])

  kernel = lambda *args: {"kernel": stacked(*args)}
  scale = lambda name: {"scale": stacked(name)}
  inner = weights["model.inputs_embeds_projector.weight"].T
  size = weights["codebooks_head.weight"].shape[-1]
  table = (weights["model.embed_tokens.weight"] @ inner).reshape(-1, size, 16)
  blocks = {
    "attention_norm": scale("input_layernorm"),
    "attention": {
      "query": kernel("self_attn.q_proj", 16, heads, -1),
      "key": kernel("self_attn.k_proj", 16, heads // 2, -1),
      "value": kernel("self_attn.v_proj", 16, heads // 2, -1),
      "out": kernel("self_attn.o_proj", heads, -1, 16),
    },
    "feed_norm": scale("post_attention_layernorm"),
    "inner": kernel("mlp.up_proj"),
    "gate": kernel("mlp.gate_proj"),
    "outer": kernel("mlp.down_proj"),
  }
  norm = {"scale": weights["model.norm.weight"]}
  return {
    # The others see the state through attention alone.
    "projection": np.pad(inner[None], ((0, 3), (0, 0), (0, 0))),
    # No special token, and no vector of the last codebook.
    "embedding": np.pad(table[:3], ((0, 0), (0, 1), (0, 0))),
    "head": np.pad(weights["codebooks_head.weight"], ((1, 0), (0, 0), (0, 0))),
    "transformer": {"blocks": blocks, "norm": norm},
  }


def test_the_depth_decoder_of_csm(compile_fast):
  """Catches a norm, gate, position or order that is not the public one.

  The data are random weights, codes and states, and the logits that
  transformers 5.24 computes: `CsmDepthDecoderForCausalLM` with 4 codebooks, 4
  heads that share 2 of keys, and rotary positions of base 10,000.
  """
  data = dict(np.load(DATA / "csm_depth_tiny.npz"))
  weights = {
    name.removeprefix("weights/"): x
    for name, x in data.items()
    if name.startswith("weights/")
  }
  depth = DepthTransformer(
    layers=2, width=16, heads=4, kv_heads=2, hidden=24, activation="swiglu",
    norms="rms", codebooks=4, codebook_size=11,
  )  # fmt: skip
  found = jax.jit(depth.apply)(
    {"params": csm_params(weights, 4)},
    data["x"][:, None],
    data["codes"][:, None],
  )
  np.testing.assert_allclose(found[:, 0, 1:], data["logits"], atol=1e-4)


def test_known_levels_condition_the_others(compile_fast):
  """Catches a prompt's code that the later codebooks of its step ignore."""
  model, params = make()
  prompt = np.full((4, 2, 3), -1)
  prompt[:, 1, 0] = range(4)
  greedy = SamplingOptions(temperature=0.0, guidance=1.0)
  codes = sample(model, params, prompt, greedy)
  assert (codes[:, 1, 0] == range(4)).all()
  assert len(np.unique(codes[:, 1, 1:], axis=0)) > 1
  # Every free code is the likeliest one given those before it.
  for frame, k in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)):
    tried = np.repeat(codes[:, None], 4, axis=1)
    tried[:, :, frame, k] = range(4)
    shares = log_shares(model, params, tried.reshape(-1, 2, 3))
    best = shares[:, frame, k].reshape(4, 4).argmax(1)
    np.testing.assert_array_equal(codes[:, frame, k], best)


def test_batches_and_chunks(compile_fast):
  """Catches codes that depend on anything but the key and the prompt."""
  model, params = make(codebook_size=16, pattern=dict(name="delay"))
  prompt = np.full((4, 9, 3), -1)
  prompt[1, :2] = 7
  options = SamplingOptions(top_k=9, guidance=1.0)
  together = sample(model, params, prompt, options)
  assert len(np.unique(together.reshape(4, -1), axis=0)) == 4
  chunks = sample(model, params, prompt, options, part=2)
  np.testing.assert_array_equal(chunks, together)
  sampler = TokenSampler(model, params)
  keys = jax.random.split(jax.random.key(0), 4)
  for i in (1, 3):
    state = sampler.start(prompt[i : i + 1], keys[i : i + 1])
    window = sampler.next_window(state, 1)
    *_, state = sampler.sample_window(state, window, {}, options)
    np.testing.assert_array_equal(state.codes[0], together[i])


@pytest.mark.slow
def test_codes_of_eight_devices(compile_fast):
  """Catches levels that get other codes than those of their items."""
  model, params = make(codebook_size=16, pattern=dict(name="delay"))
  prompt = np.full((4, 5, 3), -1)
  want = sample(model, params, prompt)
  mesh = mesh_lib.make_mesh(dict(data=2, fsdp=2, model=2))
  found = sample(model, params, prompt, mesh=mesh)
  np.testing.assert_array_equal(found, want)


@pytest.mark.slow
def test_eight_devices_compute_the_same_loss(compile_fast):
  """Catches a parameter that is not divided, and rows that are mixed up."""
  model, params = make(codebook_size=16, width=16)
  codes = np.random.default_rng(0).integers(0, 16, (4, 6, 3))
  lengths = np.array([6, 3, 5, 1])
  loss = jax.jit(
    lambda params: nats_of_codes(model, params, codes, lengths, {})[0].mean()
  )
  value, slope = jax.value_and_grad(loss)(params)
  mesh = mesh_lib.make_mesh(dict(data=2, fsdp=2, model=2))
  where = rules.shardings(params, mesh, rules.LM_RULES)
  own = where["depth_transformer"]
  for path, each in jax.tree_util.tree_leaves_with_path(own):
    if path[-1].key not in ("scale", "bias"):
      assert not each.is_fully_replicated, rules.path_name(path)
  with jax.set_mesh(mesh):
    there, other = jax.value_and_grad(loss)(jax.device_put(params, where))
  np.testing.assert_allclose(there, value, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), slope, other
  )


def test_what_heads_can_not_learn(compile_fast):
  """Catches a depth transformer that is no better than separate heads.

  Frames are independent, code 0 is one of 8 at random and determines code 1.
  Given the past alone, each has 3 bits: 6 for heads, at best. Together they
  have 3.
  """
  depth = dict(layers=1, width=16, heads=2, hidden=32)
  model, _ = make(codebooks=2, codebook_size=8, depth=depth)
  params = random_params(model, scale=0.15)
  optimizer = optax.adam(2e-2)
  lengths = np.full(16, 8)

  def draw(key):
    first = jax.random.randint(key, (16, 8), 0, 8)
    return jnp.stack([first, (3 * first + 5) % 8], axis=-1)

  def bits(params, codes):
    nats, _ = nats_of_codes(model, params, codes, lengths, {})
    return nats.mean((0, 1)).sum() / math.log(2)

  def step(carry, key):
    params, state = carry
    slope = jax.grad(bits)(params, draw(key))
    change, state = optimizer.update(slope, state)
    return (optax.apply_updates(params, change), state), None

  @jax.jit
  def run(params):
    keys = jax.random.split(jax.random.key(0), 151)
    start = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, start, keys[1:])
    return bits(params, draw(keys[0]))

  found = float(run(params))
  assert 2.9 < found < 3.3


def test_a_bundle(tmp_path):
  """Catches fields or parameters that a bundle loses, and `info` without it."""
  changes = dict(depth=DEPTH, pattern=dict(name="parallel"))
  config, variables = random_music(tmp_path / "codec", **changes)
  bundle.save(tmp_path / "music", config, variables)
  again = mmdcodec.load(tmp_path / "music")
  assert again.model == token_lm.from_config(config["model"])
  jax.tree.map(np.testing.assert_array_equal, again.variables, variables)
  words = info.describe_model(tmp_path / "music")
  assert "depth transformer" in words and "2 x 16, 4 heads" in words


@pytest.mark.parametrize("name, width", (("lm_small", 128), ("musicgen", 512)))
def test_a_run_with_overrides(name, width):
  """Catches overrides that do not reach the model."""
  argv = [f"--config={name}"]
  plain = make_task(config_files.parse(argv).to_dict()).model
  assert plain.depth is None and len(plain.pattern_of(5).steps) == 8
  argv += ["--config.model.depth.layers=3"]
  argv += ["--config.model.pattern.name=parallel"]
  model = make_task(config_files.parse(argv).to_dict()).model
  assert len(model.pattern_of(5).steps) == 5
  made = model.make_depth()
  assert (made.layers, made.width, made.dtype) == (3, width, model.dtype)


def test_which_parameters_train():
  """Catches low-rank additions without the depth transformer's kernels."""
  _, params = make()
  lora = Trainable(rank=2, on="blocks/inner/kernel$")
  trained, kept = lora.split(params, jax.random.key(0))
  added = trained["lora"]["depth_transformer"]["transformer"]["blocks"]
  assert added["inner"]["kernel"]["a"].shape == (2, 16, 2)
  whole = lora.join(trained, kept)
  jax.tree.map(np.testing.assert_array_equal, whole, params)
  frozen = Trainable(freeze="^(transformer|embedding)").split(
    params, jax.random.key(0)
  )[0]
  assert frozen.keys() == {"depth_transformer"}


@pytest.mark.parametrize(
  "changes, words",
  (
    (dict(depth=dict(levels=3)), "no field 'levels'"),
    (dict(depth=dict(codebooks=3)), "no field 'codebooks'"),
    (dict(depth=dict(layers=1, width=6)), "width is 6"),
    (dict(codebooks=1), "only one"),
  ),
)
def test_settings_that_can_not_be(changes, words):
  """Catches a setting that is taken and fails later, or never."""
  with pytest.raises(UserError, match=words):
    make(**changes)


def test_targets_are_asked_for():
  """Catches logits that were computed from codes of nowhere."""
  model, params = make()
  tokens = np.zeros((1, 2, 3), int)
  with pytest.raises(ValueError, match="needs the targets"):
    model.apply({"params": params}, tokens)
  assert decoding.DEPTH in params
