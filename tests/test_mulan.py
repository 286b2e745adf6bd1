"""The towers of the joint embedding.

Must catch: an embedding that depends on its padding or on its batch mates, one
off the sphere, a tower that ignores its input, and fields that do not fit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdcodec.errors import UserError
from mmdcodec.models import mulan, resnet
from mmdcodec.models.mulan import preset

# By name, the changes of the preset "tiny".
VARIANTS = {
  "ast": {},
  "class": dict(
    audio=dict(patch=(7, 16), layers=2, width=8, heads=2, hidden=8),
    text=dict(longest=24, layers=2, width=8, heads=2, hidden=8),
    remat="full",
  ),
  "resnet": dict(tower="resnet", audio=dict(blocks=(1, 1), channels=8)),
}


@functools.cache
def build(name):
  """(config, module, variables, jitted audio and text tower)."""
  config = preset("tiny", **VARIANTS[name])
  model = mulan.from_config(config)
  make = jax.jit(functools.partial(mulan.initial, model))
  variables = make(jax.random.key(0))
  if name == "resnet":
    # The last norms start at 0, and blocks would do nothing.
    variables = jax.tree.map(
      lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape),
      variables,
    )
  audio, text = (
    jax.jit(functools.partial(model.apply, method=method))
    for method in ("embed_audio", "embed_text")
  )
  return config, model, variables, audio, text


@pytest.mark.parametrize(
  "name", ["ast", "class", pytest.param("resnet", marks=pytest.mark.slow)]
)
def test_audio_depends_on_valid_samples_alone(name):
  _, model, variables, audio, _ = build(name)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((3, model.samples, 1)).astype(np.float32)
  lengths = np.array([model.samples, 9000, 1], np.int32)
  found = audio(variables, x, lengths)
  assert found.shape == (3, model.dim) and found.dtype == jnp.float32
  np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 1, rtol=1e-5)
  # Three different embeddings.
  assert np.all(np.abs(found - np.roll(found, 1, 0)).max(1) > 1e-3)
  other = x.copy()
  other[0] = 7.0
  other[1, 9000:] = rng.standard_normal(other[1, 9000:].shape)
  other[2, 1:] = -3.0
  again = audio(variables, other, lengths)
  np.testing.assert_allclose(again[1:], found[1:], atol=2e-6)
  assert np.abs(again[0] - found[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["ast", "class"])
def test_text_depends_on_valid_tokens_alone(name):
  _, model, variables, _, text = build(name)
  tokens = np.random.default_rng(0).integers(0, 256, (3, 12), np.int32)
  lengths = np.array([12, 5, 1], np.int32)
  found = text(variables, tokens, lengths)
  np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 1, rtol=1e-5)
  other = tokens.copy()
  other[0], other[1, 5:], other[2, 1:] = 9, 99_999, -1
  again = text(variables, other, lengths)
  np.testing.assert_allclose(again[1:], found[1:], atol=2e-6)
  longer = np.pad(other, ((0, 0), (0, 8)))
  longer = text(variables, longer, lengths)
  np.testing.assert_allclose(longer[1:], found[1:], atol=2e-6)
  # The order of tokens matters, and a later one reaches an earlier one.
  swapped = tokens.copy()
  swapped[1, :5] = tokens[1, 4::-1]
  again = text(variables, swapped, lengths)
  assert np.abs(again[1] - found[1]).max() > 1e-4


def test_statistics_standardise_the_spectrogram():
  """A gain and its share of the mean cancel each other."""
  _, model, variables, audio, _ = build("ast")
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, model.samples, 1)).astype(np.float32)
  lengths = np.array([model.samples], np.int32)
  louder = jax.tree.map(jnp.copy, variables)
  louder["input"]["mean"] = louder["input"]["mean"] + 20.0
  np.testing.assert_allclose(
    audio(louder, 10 * x, lengths), audio(variables, x, lengths), atol=1e-4
  )
  scaled = {**variables, "input": {**variables["input"]}}
  scaled["input"]["scale"] = 3.0 * scaled["input"]["scale"]
  before = audio(variables, x, lengths)
  assert np.abs(audio(scaled, x, lengths) - before).max() > 1e-3


@pytest.mark.slow
def test_silence_and_gradients_are_finite():
  _, model, variables, _, _ = build("resnet")

  def total(params, x):
    both = model.apply({**variables, "params": params}, x, *rest)
    return sum(jnp.sum(y) for y in both)

  rest = (jnp.array([model.samples]), jnp.zeros((1, 4), jnp.int32), jnp.ones(1))
  take = jax.jit(jax.grad(total, (0, 1)))
  found = take(variables["params"], jnp.zeros((1, model.samples, 1)))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_sizes():
  """The published size and the one for CPUs."""

  def count(name, **changes):
    model = mulan.from_config(preset(name, **changes))
    found = mulan.shapes(model)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(found)) / 1e6

  assert 165 < count("base") < 180
  assert 0.8 < count("small") < 1.2
  # ResNet-50 without its classifier has 23.5 M (one channel instead of three).
  tower = resnet.ResNet()
  x, valid = jnp.zeros((1, 64, 64)), jnp.ones((1, 64), bool)
  found = jax.eval_shape(tower.init, jax.random.key(0), x, valid)
  size = sum(leaf.size for leaf in jax.tree.leaves(found))
  assert size == 23_508_032 - 2 * 64 * 49
  assert jax.eval_shape(tower.apply, found, x, valid).shape == (1, 2048)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (dict(audio=dict(patches=1)), "no field 'patches'"),
    (dict(audio=dict(patch=(8, 5))), "a multiple of the 5 bands"),
    (dict(tower="vgg"), "'ast' or 'resnet'"),
    (dict(scale=200.0), "must lie between"),
    (dict(text=dict(kind="words")), "kind of the text tower is 'words'"),
    (dict(fmin=9000.0), "must rise"),
  ],
)
def test_mistakes_are_named(changes, words):
  config = {**preset("tiny"), **changes}
  with pytest.raises(UserError, match=words):
    mulan.from_config(config)
