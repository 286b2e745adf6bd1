"""Training a joint embedding.

Must catch: a loss of the rows of one device only, statistics that count
padding, texts that are always the same, and an alarm that stays silent.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from mmdcodec.configs import mulan as config_file
from mmdcodec.configs import semantic as semantic_config

import mmdcodec
from mmdcodec import bundle
from mmdcodec.data import records, texts
from mmdcodec.errors import UserError
from mmdcodec.models import bert, mulan
from mmdcodec.models.text_tokens import Bytes
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.train import level_statistics, loop
from mmdcodec.train.mulan_task import MulanTask, name_texts
from mmdcodec.train.semantic_task import SemanticTask


def make_task(**changes):
  return MulanTask({**config_file.get_config("tiny").to_dict(), **changes})


def make_batch(task, rows=8):
  """Noise of several lengths, and texts of which two are equal."""
  rng = np.random.default_rng(0)
  shapes = task.batch_shapes(rows)
  tokens = rng.integers(0, 256, shapes["tokens"].shape, np.int32)
  tokens[1] = tokens[0]
  return {
    "audio": rng.standard_normal(shapes["audio"].shape).astype(np.float32),
    "lengths": rng.integers(1, task.model.samples, rows).astype(np.int32),
    "tokens": tokens,
    "token_lengths": np.full(rows, 9, np.int32),
    "told": np.arange(rows) != 5,
  }


@pytest.mark.parametrize("given", [("speed", "drums"), ("speed, drums",)])
def test_names_of_tags(given):
  """Catches names from a command line taken for one name, which none has."""
  task = make_task()
  task.config["data"]["tags"] = given
  assert task._example_settings()["describe"].tags == ("speed", "drums")


@pytest.mark.slow
def test_eight_devices_are_one():
  """Loss, metrics and gradient of a batch on one device and on eight."""
  task = make_task()
  variables = jax.jit(task.init)(jax.random.key(0))
  params = variables.pop("params")
  extra = task.init_extra_state(jax.random.key(0))

  def loss(params, batch):
    value, (_, _, metrics) = task.loss(
      params, variables, extra, batch, jax.random.key(1), jnp.int32(0)
    )
    return value, metrics

  found = []
  for count in (1, 8):
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:count])
    with jax.set_mesh(mesh):
      batch = mesh_lib.place(make_batch(task), mesh)
      step = jax.jit(jax.value_and_grad(loss, has_aux=True))
      found.append(jax.device_get(step(params, batch)))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), *found
  )
  (_, metrics), grads = found[0]
  assert metrics["told"] == 7 / 8 and metrics["scale"] == pytest.approx(10)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(grads["audio_tower"]))


@pytest.mark.usefixtures("all_devices")
@pytest.mark.slow
def test_a_run(tmp_path, dataset, monkeypatch):
  """A few steps: measured statistics, held-out measures, a workdir."""
  monkeypatch.setattr(level_statistics, "SECONDS", 16)
  config = config_file.get_config("tiny").to_dict()
  config |= dict(steps=2, eval_every=2, save_every=2, log_every=1)
  config["data"] |= dict(train=str(dataset), valid=str(dataset))
  found = loop.train(config, tmp_path / "run", log=lambda line: None)
  assert 0 <= found["valid/r10"] <= 1 and found["valid/median_rank"] >= 1
  lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
  first = json.loads(lines[0])
  assert first["train/told"] == 1 and np.isfinite(first["train/loss"])
  kept = bundle.read(tmp_path / "run")
  assert kept.config["kind"] == "mulan"
  # They start as 0 and 1.
  assert np.all(kept.variables["input"]["mean"] < -5)
  assert np.all(kept.variables["input"]["scale"] < 0.5)


def test_statistics_of_valid_frames():
  """Against NumPy over two batches; padding does not count."""
  task = make_task()
  batches = [make_batch(task), make_batch(task)]
  batches[1]["audio"] *= 0.1
  old = {"mean": jnp.zeros(16), "scale": jnp.ones(16)}
  found = level_statistics.measure(
    task.model.spectrogram,
    old,
    iter(batches),
    seconds=level_statistics.SECONDS / 2,
    say=lambda line: None,
  )
  rows = []
  for each in batches:
    levels, valid = task.model.spectrogram(each["audio"], each["lengths"])
    rows.append(np.asarray(levels, np.float64)[np.asarray(valid)])
  rows = np.concatenate(rows)
  np.testing.assert_allclose(found["mean"], rows.mean(0), rtol=1e-4)
  np.testing.assert_allclose(found["scale"], 1 / rows.std(0), rtol=1e-3)


@pytest.mark.parametrize("silent", [False, True])
def test_statistics_of_semantic_spectra(silent):
  """Catches frames of padding that count, and deviations near 0."""
  config = semantic_config.get_config("tiny").to_dict()
  task = SemanticTask(config)
  model = task.model
  rng = np.random.default_rng(0)
  audio = 0.1 * rng.normal(size=(2, 4 * model.stride, 1)).astype(np.float32)
  audio[:, ::7] *= np.linspace(0, 9, audio[:, ::7].size).reshape(2, -1, 1)
  audio *= not silent
  batch = {"audio": audio, "lengths": np.array([16, 7]) * model.hop}
  zeros = jnp.zeros(model.mels)
  old = {"statistics": {"mean": zeros, "deviation": zeros}}
  said = []
  found = task.measure_data(old, iter([batch]), said.append)["statistics"]
  levels = np.float64(model.levels(jnp.asarray(audio)))
  rows = levels[np.arange(16) < np.array([[16], [7]])]
  np.testing.assert_allclose(found["mean"], rows.mean(0), rtol=1e-4)
  want = np.maximum(rows.std(0), 1)
  np.testing.assert_allclose(found["deviation"], want, rtol=1e-3)
  assert (want == 1).all() == silent and len(said) == 1


def test_texts():
  """Captions and subsets of tags, drawn anew, the same for held-out clips."""
  tags = dict(speed="fast", drums=True, bass=False, genres=["rock", "indie"])
  tags |= dict(year=1999, none=None, words="")
  words = texts.phrases(tags)
  assert words == {
    "speed": ["fast speed"],
    "drums": ["drums"],
    "bass": ["no bass"],
    "genres": ["rock", "indie"],
  }
  assert texts.phrases(tags, ("drums",)) == {"drums": ["drums"]}
  flat = [word for each in words.values() for word in each]
  rng = np.random.default_rng(0)
  drawn = [texts.text_of("a song", flat, rng, share=0.5) for _ in range(400)]
  assert 150 < drawn.count("a song") < 250
  subsets = [text.split(", ") for text in drawn if text != "a song"]
  assert {*map(len, subsets)} == {1, 2, 3, 4, 5}
  assert all({*s} <= {*flat} and len({*s}) == len(s) for s in subsets)
  assert len({*drawn}) > 50
  assert texts.text_of("", flat, None, share=1.0) == ", ".join(flat)
  assert texts.text_of("a song", flat, None, share=1.0) == "a song"
  assert texts.text_of("", (), rng, share=0.5) == ""
  describe = texts.Describe(Bytes().encode, longest=4, share=1.0)
  labels = dict(caption="abcdef", tags="{}")
  found = describe(labels, rng)
  np.testing.assert_array_equal(found["tokens"], [97, 98, 99, 256])
  empty = describe(dict(caption=" ", tags=""), None)
  assert not empty["told"] and empty["token_lengths"] == 1


def test_names_of_texts():
  tokens = np.array([[1, 2, 9], [1, 2, 3], [2, 1, 9], [1, 2, 0]], np.int32)
  a, b, c, d = np.asarray(name_texts(tokens, np.array([2, 2, 2, 3])))
  assert a == b and len({int(x) for x in (a, c, d)}) == 3


def test_alarms():
  task = make_task()
  good = {"train/guessing_steps": 20.0, "train/told": 1.0}
  assert not task.warnings(good)
  bad = {"train/guessing_steps": 400.0, "train/loss_of_guessing": 1.9}
  assert "collapsed" in task.warnings(bad)[0]
  assert "captions" in task.warnings({**good, "train/told": 0.2})[0]
  # Towers that give everything the same vector count as guessing.
  variables = jax.jit(task.init)(jax.random.key(0))
  params = jax.tree.map(jnp.copy, variables.pop("params"))
  for name in ("audio_out", "text_out"):
    params[name]["kernel"] = jnp.zeros_like(params[name]["kernel"])
  extra = {"guessing": jnp.int32(4)}
  batch, key = make_batch(task), jax.random.key(0)
  take = jax.jit(task.loss)
  _, (_, extra, _) = take(params, variables, extra, batch, key, 0)
  assert extra["guessing"] == 5


def test_held_out_clips_without_texts_are_refused(tmp_path):
  """Or the run would end at its first evaluation."""
  soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.1), 8000)
  records.prepare(
    tmp_path, tmp_path / "data", rate=8000, channels=1, progress=False
  )
  task = make_task()
  task.config["data"]["valid"] = str(tmp_path / "data")
  with pytest.raises(UserError, match="none of the held-out clips"):
    task.held_out()


def test_parts_of_a_batch_are_refused():
  with pytest.raises(UserError, match="accumulate is 2"):
    make_task(accumulate=2)


@pytest.mark.slow
def test_a_public_text_encoder(tmp_path, dataset, monkeypatch):
  """It is where the tower begins, and its tokenizer is in the bundle."""
  from test_bert import TOKENIZER

  fields = dict(vocabulary=17, width=8, layers=1, heads=2, hidden=8)
  fields |= dict(positions=32, types=2, first_position=0, epsilon=1e-12)
  model = bert.from_config(fields)
  ids = jnp.zeros((1, 4), jnp.int32)
  variables = jax.jit(model.init)(jax.random.key(7), ids, ids)
  assets = {"tokenizer.json": TOKENIZER.encode()}
  config = {"kind": "text", "model": fields, "tokenizer": "word_pieces"}
  bundle.save(tmp_path / "text", config, variables, assets=assets)

  monkeypatch.setattr(level_statistics, "SECONDS", 16)
  text = dict(kind="bert", bert=fields, longest=16, pooling="mean")
  run = config_file.get_config("tiny").to_dict()
  run["model"] = mulan.preset("tiny", text=text)
  run |= dict(steps=1, log_every=1, ema=0.0)
  run["optimizer"]["learning_rate"] = 0.0
  run["data"]["train"] = str(dataset)
  with pytest.raises(UserError, match="tokenizer.json"):
    loop.train(run, tmp_path / "none", log=lambda line: None)
  run["init_from"] = str(tmp_path / "text")
  loop.train(run, tmp_path / "run", log=lambda line: None)
  loaded = mmdcodec.load(tmp_path / "run")
  tower = loaded.variables["params"]["text_tower"]["bert"]
  jax.tree.map(np.testing.assert_array_equal, tower, variables["params"])
  assert np.all(loaded.variables["input"]["mean"] < -5)
  found = loaded.embed_text(["calm piano", "piano"])
  assert np.abs(found[0] - found[1]).max() > 1e-4
  # It goes on without the encoder that it began with.
  shutil.rmtree(tmp_path / "text")
  loop.train(run | {"steps": 2}, tmp_path / "run", log=lambda line: None)
  bundle.save(tmp_path / "text", config, variables, assets=assets)
  run["model"]["text"]["bert"]["hidden"] = 16
  with pytest.raises(UserError, match="hidden"):
    loop.train(run, tmp_path / "other", log=lambda line: None)
