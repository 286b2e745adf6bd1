"""A joint embedding with weights: clips of any length, texts, codes.

Must catch: an embedding that depends on batch mates or padding, windows that
are lost, codes of texts that go around the bridge, and a bridge that is worse
than none.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmdcodec
from mmdcodec import bundle
from mmdcodec.cli import main as cli
from mmdcodec.data import record_encoder
from mmdcodec.data.record_source import Source
from mmdcodec.errors import UserError
from mmdcodec.models import embedding_mapper, mulan
from mmdcodec.nn import norms
from mmdcodec.tokenizers.mulan import Mulan, is_text
from mmdcodec.workflows import cluster

TEXTS = ["calm piano", "loud drums and a bass", "", "ä", 40 * "long "]


@functools.cache
def content():
  config = {"kind": "mulan", "model": mulan.preset("tiny")}
  model = mulan.from_config(config["model"])
  make = jax.jit(functools.partial(mulan.initial, model))
  return config, jax.device_get(make(jax.random.key(0)))


def fitted():
  """With random codebooks and a bridge."""
  config, variables = content()
  rng = np.random.default_rng(0)
  embed = rng.standard_normal((3, 16, 8)).astype(np.float32)
  statistics = {"mean": np.zeros(8), "scale": np.ones(8)}
  config, variables = Mulan(config, variables).with_codebooks(statistics, embed)
  audio = norms.unit_vectors(rng.standard_normal((3, 8)))
  bridge, _ = Mulan(config, variables).bridge_of(audio, TEXTS[:3])
  return config, {**variables, "bridge": bridge}


def test_clips_of_any_length():
  model = Mulan(*content())
  rng = np.random.default_rng(0)
  lengths = np.array([16_000 * 3 + 200, 900, 1, 16_000], np.int32)
  x = rng.standard_normal((4, lengths.max(), 1)).astype(np.float32)
  found = model.embed_audio(x, lengths=lengths)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
  for row, clip, length in zip(found, x, lengths, strict=True):
    alone = model.embed_audio(clip[:length])[0]
    np.testing.assert_allclose(row, alone, atol=1e-6)
  assert [model.frames_of(n) for n in lengths] == [3, 1, 1, 1]
  # The mean of its windows, one a second.
  windows = [x[0, at : at + 16_000] for at in (0, 16_000, 32_000)]
  parts = np.stack([model.embed_audio(window)[0] for window in windows])
  mean = parts.mean(0) / np.linalg.norm(parts.mean(0))
  np.testing.assert_allclose(found[0], mean, atol=1e-6)
  stereo = np.stack([x[1, :900, 0], 0 * x[1, :900, 0]], 1)
  again = model.embed_audio(2 * stereo, rate=16_000)
  np.testing.assert_allclose(again[0], found[1], atol=1e-5)
  silence = model.embed_audio(np.zeros((1, 16_000, 1)))
  np.testing.assert_allclose(np.linalg.norm(silence), 1, rtol=1e-5)
  with pytest.raises(UserError, match="finite"):
    model.embed_audio(np.full(100, np.nan))


def test_texts_do_not_depend_on_each_other():
  model = Mulan(*content())
  found = model.embed_text(TEXTS)
  for row, text in zip(found, TEXTS, strict=True):
    np.testing.assert_array_equal(row, model.embed_text(text)[0])
  assert np.abs(found[0] - found[1]).max() > 1e-3


def test_codes_of_audio_and_of_texts():
  model = Mulan(*fitted())
  assert (model.codebook_sizes, model.window) == ((16,) * 3, 1.0)
  x = np.random.default_rng(1).standard_normal(40_000).astype(np.float32)
  codes = model.encode(x)
  assert codes.shape == (1, 2, 3) and model.encode_clip(x).shape == (1, 3)
  short = x[:900]
  np.testing.assert_array_equal(
    model.encode_clip(short), model.encode(short)[0]
  )
  texts = model.encode(TEXTS)
  assert texts.shape == (5, 1, 3)
  np.testing.assert_array_equal(model.encode_clip(TEXTS), texts[:, 0])
  # Over the mapper, as `embed_text` gives it.
  rows = model.embed_text(TEXTS, bridge="mapper")[:, None]
  expected = model.codes_of(rows, np.ones((5, 1), bool))
  np.testing.assert_array_equal(texts, expected)
  assert (
    is_text("") and is_text(["a"]) and not is_text([0.5]) and not is_text([])
  )


def test_what_is_not_fitted_is_refused():
  model = Mulan(*content())
  with pytest.raises(UserError, match="mmdcodec cluster"):
    model.encode(TEXTS)
  with pytest.raises(UserError, match="no shift"):
    model.embed_text(TEXTS, bridge="shift")
  with pytest.raises(UserError, match="'mapper'"):
    model.embed_text(TEXTS, bridge="map")
  config, variables = fitted()
  wrong = {**variables["bridge"], "audio": np.zeros(7, np.float32)}
  for bridge in (wrong, np.zeros(8, np.float32)):
    with pytest.raises(UserError, match="bridge"):
      Mulan(config, {**variables, "bridge": bridge})


def test_a_bundle(tmp_path):
  config, variables = fitted()
  bundle.save(tmp_path / "bundle", config, variables)
  loaded, model = mmdcodec.load(tmp_path / "bundle"), Mulan(config, variables)
  assert loaded.hash == model.hash != Mulan(*content()).hash
  np.testing.assert_array_equal(loaded.encode(TEXTS), model.encode(TEXTS))
  del variables["params"]["scale"]
  bundle.save(tmp_path / "other", config, variables)
  with pytest.raises(UserError, match="params/scale"):
    mmdcodec.load(tmp_path / "other")


def test_mapper(monkeypatch):
  """It learns a rotation, and noise teaches it nothing that it can keep."""
  monkeypatch.setattr(embedding_mapper, "STEPS", 400)
  rng = np.random.default_rng(0)
  text = norms.unit_vectors(rng.standard_normal((300, 8)))
  turned = text[:, ::-1] * jnp.where(jnp.arange(8) < 4, 1, -1)
  found = embedding_mapper.fit(jax.random.key(0), text, turned)
  assert found.before < 0.2 and found.after > 0.9 and found.step > 0
  y = embedding_mapper.apply(found.params, text)
  np.testing.assert_allclose(jnp.linalg.norm(y, axis=1), 1, rtol=1e-5)
  noise = norms.unit_vectors(rng.standard_normal((40, 8)))
  other = embedding_mapper.fit(jax.random.key(0), text[:40], noise)
  assert other.after >= other.before
  # No text of a clip is judged by what its others taught, which gives 0.8.
  often = np.tile(text[:25], (8, 1)), np.tile(noise[:25], (8, 1))
  other = embedding_mapper.fit(jax.random.key(0), *often)
  assert other.after < 0.5
  few = embedding_mapper.fit(jax.random.key(0), text[:4], turned[:4])
  assert few.step == 0
  identity = embedding_mapper.apply(few.params, text)
  np.testing.assert_allclose(identity, text, atol=1e-6)
  means = {"text": text.mean(0), "audio": text.mean(0) + 1.0}
  moved = embedding_mapper.shift(text, means)
  expected = norms.unit_vectors(text + 1.0)
  np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_cluster_fits_codes_and_bridge(tmp_path, dataset, capsys):
  """Catches a bridge to other clips' texts, or a bundle that can't be used."""
  bundle.save(tmp_path / "bare", *content())
  words = ["cluster", tmp_path / "bare", dataset, tmp_path / "out"]
  words += ["--codes", 4, "--levels", 2, "--quiet"]
  assert not cli.main([str(word) for word in words])
  assert "fitted to 3 pairs" in capsys.readouterr().out
  model = mmdcodec.load(tmp_path / "out")
  assert model.codebook_sizes == (4, 4)
  source, clips, texts = Source(dataset), [], []
  for i in range(len(source)):
    record, x = record_encoder.read_record(source, i)
    clips.append(model.embed_audio(x, record["rate"])[0])
    texts.append(record["caption"])
  bridge = model.variables["bridge"]
  np.testing.assert_allclose(bridge["audio"], np.mean(clips, 0), atol=1e-4)
  expected = model.embed_text(texts).mean(0)
  np.testing.assert_allclose(bridge["text"], expected, atol=1e-5)
  assert model.encode(texts).shape == (3, 1, 2)


def test_cluster_knows_the_tags_of_training(tmp_path, dataset, monkeypatch):
  """Catches names from a command line that are taken for one name."""
  config, variables = content()
  config["training"] = {"config": {"data": {"tags": ["speed,drums"]}}}
  bundle.save(tmp_path / "bare", config, variables)
  found = []

  def fit(tokenizer, source, clips, only, seed):
    found.append(only)
    return {}, {}

  monkeypatch.setattr(cluster, "_bridge", fit)
  cluster.cluster(tmp_path / "bare", dataset, tmp_path / "out", codes=4)
  assert found == [("speed", "drums")]
