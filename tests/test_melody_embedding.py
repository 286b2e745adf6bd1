"""The melody embedding: renditions, training, and embeddings of clips.

Must catch: renditions that are not of the same melody, melodies that are both
trained on and measured, batches that depend on threads, and embeddings that
depend on padding or batch mates.
"""

import functools
import json

import jax
import numpy as np
import pytest
from mmdcodec.configs import melody_embedding as config_file

import mmdcodec
from mmdcodec import bundle
from mmdcodec.cli.main import main
from mmdcodec.data import melody_clips
from mmdcodec.errors import UserError
from mmdcodec.evaluate import melody as melody_measure
from mmdcodec.models import melody_embedding
from mmdcodec.tokenizers.melody_embedding import Melody
from mmdcodec.train import loop
from mmdcodec.train.melody_task import MelodyTask


def intervals(notes):
  pitches = np.array([n.pitch for n in notes])
  return np.diff(pitches)


def test_renditions_of_a_melody(monkeypatch):
  """Catches another melody, or one that is not changed at all."""
  heard = []
  render = melody_clips.synth.render

  def listen(*args, **choices):
    heard.append(choices)
    return render(*args, **choices)

  monkeypatch.setattr(melody_clips.synth, "render", listen)
  for which in range(6):
    x = melody_clips.render(3, which, rate=4000, seconds=1.6)
    assert x.shape == (6400,) and 0.1 < np.abs(x).max() <= 1
  notes, about = melody_clips.melody_of(3)
  for choices in heard:
    played = choices["melody"]
    moved = played[0].pitch - notes[0].pitch
    tonic = melody_clips.composition.NAMES.index(choices["key"])
    assert moved % 12 == tonic and abs(moved) <= 6
    np.testing.assert_array_equal(
      intervals(played), intervals(notes[: len(played)])
    )
    beat = 60 / choices["tempo"]
    np.testing.assert_allclose(played[1].onset, notes[1].onset * beat)
    assert 1 / 1.15 < choices["tempo"] / about["tempo"] < 1.15
  for name in ("key", "tempo", "timbre"):
    assert len({choices[name] for choices in heard}) > 2, name
  assert {choices.get("drums", True) for choices in heard} == {True, False}
  others = [intervals(melody_clips.melody_of(i)[0])[:6] for i in range(20)]
  assert len({tuple(each) for each in others}) == 20


def test_clips_vary_and_are_kept():
  """Catches noise, and a clip that is another one the second time."""
  source = melody_clips.Melodies(
    4, renditions=2, rate=4000, seconds=0.5, keep=True
  )
  plain = source.clip(1, 0)
  assert plain.shape == (2000, 1) and plain.dtype == np.float32
  np.testing.assert_array_equal(source.clip(1, 0), plain)
  rendered = melody_clips.Melodies(4, renditions=2, rate=4000, seconds=0.5)
  np.testing.assert_allclose(rendered.clip(1, 0), plain, atol=1e-4)
  one, other = (source.clip(1, 0, np.random.default_rng(i)) for i in range(2))
  assert one.shape == (2000, 1) and np.abs(one - other).max() > 1e-2
  again = source.clip(1, 0, np.random.default_rng(0))
  np.testing.assert_array_equal(one, again)


def test_parts_of_a_batch_are_refused():
  """Catches triplets that are sought in a part of the batch only."""
  config = config_file.get_config("tiny").to_dict() | {"accumulate": 2}
  with pytest.raises(UserError, match="accumulate is 2"):
    MelodyTask(config)


@pytest.mark.usefixtures("all_devices")
@pytest.mark.slow
def test_a_run(tmp_path, dataset):
  """Catches a model that is not trained, measured, loaded or clustered."""
  config = config_file.get_config("tiny").to_dict()
  config |= dict(steps=6, save_every=3, eval_every=6)
  task = MelodyTask(config)
  trained = {int(i) for i in next(task.batches(seed=0))["melody"]}
  assert len(trained) == 8
  held = task.held_out()
  assert held[0]["audio"].shape == (8, 2, 8000, 1)
  source = melody_clips.Melodies(16, renditions=2, rate=8000, seconds=1.0)
  assert not any(
    np.array_equal(held[0]["audio"][0, 0], source.clip(i, 0)) for i in range(8)
  )
  lines = []
  loop.train(config, tmp_path / "run", log=lines.append)
  assert any("chance_r1 0.125" in line for line in lines), lines
  bundle.export(tmp_path / "run", tmp_path / "bundle")
  loaded = mmdcodec.load(tmp_path / "bundle")
  assert isinstance(loaded, Melody)
  # The statistics of the bands were measured, and belong to the model.
  scale = np.asarray(loaded.variables["input"]["scale"])
  assert scale.shape == (16,) and np.all(scale != 1)
  found = task.evaluate(jax.device_get(loaded.variables), task.held_out())
  assert 0 <= found["r1"] <= found["r10"] == 1 and found["melodies"] == 8
  argv = ["cluster", tmp_path / "bundle", dataset, tmp_path / "fitted"]
  argv += ["--codes", 4, "--levels", 3, "--quiet"]
  assert not main([str(word) for word in argv])
  fitted = mmdcodec.load(tmp_path / "fitted")
  x = np.random.default_rng(0).normal(size=20_000).astype(np.float32) / 10
  assert fitted.encode(x).shape == (1, 3, 3)


# As in `:small`.
INTERVALS = dict(mels=24, octave=6, lags=(1, 3), patch=(4, 26))


def loaded(**changes):
  config = {"kind": "melody_embedding"}
  config["model"] = melody_embedding.preset("tiny", **changes)
  model = melody_embedding.from_config(config["model"])
  make = jax.jit(functools.partial(melody_embedding.initial, model))
  return Melody(config, make(jax.random.key(0)))


@pytest.mark.parametrize("changes", [{}, INTERVALS])
def test_windows_of_clips(changes):
  """Catches padding or batch mates that count, and a wrong hop."""
  model = loaded(**changes)
  assert ("input" in model.variables) == (not changes)
  assert model.frame_rate == 4 / 3 and model.window == 1
  lengths = np.array([8000 * 3 + 100, 900, 1, 8000, 14_000], np.int32)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((5, lengths.max(), 1)).astype(np.float32)
  rows, valid = model.embed(x, lengths=lengths)
  assert [*valid.sum(1)] == [3, 1, 1, 1, 2]
  assert [model.frames_of(n) for n in lengths] == [3, 1, 1, 1, 2]
  np.testing.assert_allclose(np.linalg.norm(rows[valid], axis=1), 1, rtol=1e-5)
  for i, length in enumerate(lengths):
    alone, _ = model.embed(x[i, :length])
    np.testing.assert_allclose(rows[i, valid[i]], alone[0], atol=1e-6)
  second, _ = model.embed(x[0, 6000:14_000])
  np.testing.assert_allclose(rows[0, 1], second[0, 0], atol=1e-6)
  with pytest.raises(UserError, match="mmdcodec cluster"):
    model.encode(x)


def test_evaluate(tmp_path, capsys, fails):
  """Catches a rendition that is compared with itself, and lost results."""
  model = loaded()
  bundle.save(tmp_path / "bundle", model.config, model.variables)
  argv = ["evaluate", "melody", "--model", tmp_path / "bundle", "--clips", 5]
  argv += ["--out", tmp_path / "out"]
  assert not main([str(word) for word in argv])
  shown = capsys.readouterr().out
  assert "5 melodies" in shown and "0.200" in shown
  found = json.loads((tmp_path / "out/results.json").read_text())
  untrained, classes, plain, chance = found["rows"]
  assert untrained["values"]["r1"] < 1 and plain["name"] == "mean mel"
  assert 0 < classes["values"]["r1"] <= classes["high"]["r1"]
  assert chance["values"]["r1"] == pytest.approx(0.2) and not chance["low"]
  low, high = untrained["low"]["r1"], untrained["high"]["r1"]
  assert 0 <= low <= untrained["values"]["r1"] <= high <= 1
  assert "omit --audio" in fails(*argv[:4], "--audio", tmp_path)
  bundle.save(tmp_path / "none", {"kind": "text", "model": {}}, {})
  assert "missing" in fails(*argv[:3], tmp_path / "none")


def test_correlations_of_chroma():
  """Catches a key or speed that is not tried, and a clip compared with itself.

  The second clip of a melody is slower and in another key.
  """
  rng = np.random.default_rng(0)
  notes = rng.integers(0, 12, (4, 20))
  slower = np.minimum(np.arange(80) / 1.14**2 / 4, 19).astype(int)
  first = np.eye(12)[notes.repeat(4, 1)]
  for up in range(12):
    second = np.eye(12)[(notes[:, slower] + up) % 12]
    found = melody_measure.correlations(np.stack([first, second], 1))
    assert found.shape == (4, 4) and [*found.argmax(1)] == [0, 1, 2, 3]
    assert np.diag(found).min() > 0.8 > np.sort(found, 1)[:, :-1].max()


def test_settings_that_are_refused():
  """Catches a model that fails late."""
  for change, said in (
    (dict(heads=3), "share"),
    (dict(mels=17), "multiple"),
    (dict(fmin=5000.0), "rise"),
    (dict(INTERVALS, patch=(4, 24)), "26 intervals must be a multiple"),
    (dict(INTERVALS, fmin=0.0), "between 0 and rate / 2"),
    (dict(INTERVALS, mels=48), "60.0 to 15360 Hz"),
  ):
    with pytest.raises(UserError, match=said):
      melody_embedding.from_config(melody_embedding.preset("tiny", **change))
