"""The semantic network and its tokenizer, without training."""

import functools

import jax
import numpy as np
import pytest

import mmdcodec
from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.models import semantic
from mmdcodec.tokenizers.semantic import SemanticTokenizer

OBJECTIVES = tuple(semantic.OBJECTIVES)


@functools.cache
def random_model(objective="w2v_bert"):
  """A model, and variables with statistics like those of music."""
  model = semantic.from_config(semantic.preset("tiny", objective=objective))
  variables = jax.jit(semantic.init, static_argnums=0)(model, jax.random.key(0))
  bands = np.arange(model.mels, dtype=np.float32)
  variables["statistics"] = {"mean": -20 - bands, "deviation": 10 + bands}
  return model, variables


def sound(samples, seed=0, batch=1):
  """Notes and noise of 40 ms: [batch, samples, 1]."""
  random = np.random.default_rng(seed)
  hertz, loud = random.uniform(0.01, 0.4, (2, batch, samples // 320 + 1))
  hertz, loud = (np.repeat(x, 320, axis=1)[:, :samples] for x in (hertz, loud))
  x = np.sin(2 * np.pi * np.cumsum(hertz, axis=1))
  x = loud * (x + 0.1 * random.standard_normal(x.shape))
  return x[..., None].astype(np.float32)


def make_tokenizer(levels=1, size=16, **fields):
  """A tokenizer with a random codebook."""
  model, variables = random_model()
  config = {"kind": "semantic", "model": semantic.preset("tiny", **fields)}
  plain = SemanticTokenizer(config, variables)
  random = np.random.default_rng(0)
  embed = random.standard_normal((levels, size, model.width))
  statistics = {"mean": np.zeros(model.width), "scale": np.ones(model.width)}
  return SemanticTokenizer(*plain.with_codebooks(statistics, embed))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_context_hears_what_is_masked(objective):
  """Catches a spectrum or convolution that reaches under the mask.

  Other audio under the mask has other targets, and the same context vectors
  and predictions, to the last bit.
  """
  model, variables = random_model(objective)
  x, frames = sound(20 * model.stride), np.arange(20)
  masked = ((frames >= 4) & (frames < 9))[None]
  under = np.repeat(masked, model.stride, axis=1)[..., None]
  changed = np.where(under, sound(x.shape[1], seed=1), x)
  lengths, noise = np.array([x.shape[1]]), 0.1 * sound(x.shape[1], seed=2)

  def stacks(module, method):
    name = module.name
    return method == "__call__" and name in ("contrastive", "prediction")

  @jax.jit
  def run(x):
    losses, state = model.apply(
      variables, x, lengths, masked, noise, capture_intermediates=stacks
    )
    return losses.ids, state["intermediates"]

  (ids, vectors), (other_ids, other_vectors) = run(x), run(changed)
  assert np.any(ids[0, 4:9] != other_ids[0, 4:9])
  found = jax.tree.leaves(vectors)
  assert len(found) == 2
  for one, other in zip(found, jax.tree.leaves(other_vectors), strict=True):
    assert one.shape == (1, 20, model.width)
    np.testing.assert_array_equal(one, other)
  # Audio that is not under the mask is heard.
  other_vectors = run(np.where(under, x, sound(x.shape[1], seed=1)))[1]
  assert np.any(found[0] != jax.tree.leaves(other_vectors)[0])


def test_padding_changes_nothing():
  """Catches convolutions, norms and attention that see beyond the end."""
  model, variables = random_model()
  run = jax.jit(lambda x, n: model.apply(variables, x, n, method="features"))
  x = sound(3000, batch=2)
  lengths = np.array([3000, 2001])
  # The padding must not matter even if it is not zero.
  rows = run(x, lengths)
  for i, n in enumerate(lengths):
    alone = run(x[i : i + 1, :n], np.array([n]))[0]
    assert alone.shape == (-(-n // model.stride), model.width)
    np.testing.assert_allclose(rows[i, : len(alone)], alone, atol=1e-5)
    assert not np.any(rows[i, len(alone) :])


def test_tokens_of_a_clip_are_its_own():
  """Catches tokens that depend on batch mates, padding or batch size."""
  tokenizer = make_tokenizer()
  long, short = sound(8000, seed=3)[0], sound(2500, seed=4)[0]
  batch = np.zeros((2, 9000, 1), np.float32)
  batch[0, :8000], batch[1, :2500] = long, short
  batch[1, 2500:] = 1.0  # Not valid, so not heard.
  codes = tokenizer.encode(batch, lengths=[8000, 2500])
  assert codes.shape == (2, 25, 1) and codes.dtype == np.int32
  np.testing.assert_array_equal(codes[0], tokenizer.encode(long)[0])
  count = tokenizer.frames_of(2500)
  np.testing.assert_array_equal(codes[1, :count], tokenizer.encode(short)[0])
  assert not np.any(codes[1, count:])
  assert len({*codes[0].ravel().tolist()}) > 1


def test_silence_one_sample_and_nan():
  """Catches numbers that are not finite, and audio that is none."""
  tokenizer = make_tokenizer()
  silence = tokenizer.encode(np.zeros((1, 4000, 1)))
  assert silence.shape == (1, 13, 1)
  assert tokenizer.encode(np.ones((1, 1, 1))).shape == (1, 1, 1)
  with pytest.raises(UserError, match="finite"):
    tokenizer.encode(np.full((1, 4000, 1), np.nan))
  with pytest.raises(UserError, match="at least one sample"):
    tokenizer.encode(np.zeros((1, 0, 1)))
  with pytest.raises(UserError, match="mmdcodec cluster"):
    config = {"kind": "semantic", "model": semantic.preset("tiny")}
    SemanticTokenizer(config, random_model()[1]).encode(np.zeros(100))


def test_long_clips(monkeypatch):
  """Catches windows that do not fit together, and a clip that has too few."""
  module = "mmdcodec.tokenizers.semantic"
  tokenizer = make_tokenizer()
  x = sound(12_000, seed=5)
  lengths = np.array([12_000])
  whole, valid = tokenizer.features(x, lengths)
  assert whole.shape == (1, 38, 16) and valid.all()
  monkeypatch.setattr(f"{module}.WINDOW_SECONDS", 1.0)
  monkeypatch.setattr(f"{module}.EDGE_SECONDS", 0.28)
  cut, valid = tokenizer.features(x, lengths)
  assert cut.shape == whole.shape and valid.all()
  # The first window is that of a clip of this length.
  first, _ = tokenizer.features(x[:, :8000], np.array([8000]))
  np.testing.assert_allclose(cut[0, :18], first[0, :18], atol=1e-5)
  near = np.abs(cut - whole).mean() / np.abs(whole - whole.mean(1)).mean()
  assert near < 0.5


def test_bundle(tmp_path):
  """Catches a bundle that other weights or other fields get into."""
  tokenizer = make_tokenizer(levels=2)
  bundle.save(tmp_path / "a", tokenizer.config, tokenizer.variables)
  again = mmdcodec.load(tmp_path / "a")
  assert again.hash == tokenizer.hash and again.codebook_sizes == (16, 16)
  x = sound(4000, seed=6)
  np.testing.assert_array_equal(again.encode(x), tokenizer.encode(x))
  # Resampled to its rate.
  assert again.encode(sound(8000), rate=16_000).shape == (1, 13, 2)
  other = {**tokenizer.config, "model": semantic.preset("tiny", width=32)}
  bundle.save(tmp_path / "b", other, tokenizer.variables)
  with pytest.raises(UserError, match="do not fit"):
    mmdcodec.load(tmp_path / "b")


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("feature_layer", 3, "at most prediction_layers"),
    ("heads", 3, "multiple of"),
    ("hop", 512, "longer than the window"),
    ("objective", "vq", "w2v_bert"),
    ("mels", 0, "whole number"),
    ("layers", 3, "no field"),
  ],
)
def test_refused(field, value, words):
  """Catches fields that make no model."""
  with pytest.raises(UserError, match=words):
    semantic.from_config(semantic.preset("tiny") | {field: value})


def test_centered_codes():
  """Catches codes that still tell what a whole clip has in common.

  A filter that is the same for all of a clip adds a constant to its spectra in
  decibels. Padding takes no part in the mean.
  """
  x = np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)
  valid = np.arange(9) < np.array([[9], [4]])
  found = jax.jit(semantic.center)(x, valid)
  again = jax.jit(semantic.center)(x + np.float32([[[1.0, -2.0, 3.0]]]), valid)
  np.testing.assert_allclose(found, again, atol=1e-6)
  want = np.float64(x[1, :4]) - np.float64(x[1, :4]).mean(0)
  np.testing.assert_allclose(found[1, :4], want, atol=1e-6)
  assert not found[1, 4:].any()
