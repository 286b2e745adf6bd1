"""Measures of what tokens say about music."""

import json

import numpy as np
import pytest
import soundfile
from extension.shape import Shape

from mmdcodec import bundle
from mmdcodec.cli import main as cli
from mmdcodec.errors import UserError
from mmdcodec.evaluate import (
  mel_tokens,
  melody_abx,
  melody_pairs,
  probes,
  tag_probes,
  token_distance,
)
from mmdcodec.evaluate.clips import Clip


def levenshtein(one, other):
  """The textbook's two loops."""
  row = [*range(len(other) + 1)]
  for i, a in enumerate(one):
    new = [i + 1]
    for j, b in enumerate(other):
      cost = np.mean(a != b)
      new.append(min(new[j] + 1, row[j + 1] + 1, row[j] + cost))
    row = new
  return row[-1] / max(len(one), len(other), 1)


def test_edit_distance_is_the_textbooks():
  """Catches insertions, deletions or lengths that are not counted."""
  rng = np.random.default_rng(0)
  make = lambda: rng.integers(0, 3, (rng.integers(0, 9), 2))
  pairs = [(make(), make()) for _ in range(60)]
  found = token_distance.edit_distances(pairs)
  want = [levenshtein(*pair) for pair in pairs]
  np.testing.assert_allclose(found, want, atol=1e-12)
  same = np.arange(5)[:, None]
  assert token_distance.edit_distances([(same, same)]) == 0


def codes(groups, melody, setting, noise, seed=0):
  """Codes that follow the melody or the setting."""
  rng = np.random.default_rng(seed)
  made = []
  for _ in range(groups):
    of_melody = rng.integers(0, 50, (4, 40))
    of_setting = rng.integers(50, 99, (2, 40))
    group = []
    for m in range(4):
      songs = []
      for s in range(2):
        draw = rng.random(40)
        code = np.where(draw < melody, of_melody[m], rng.integers(0, 99, 40))
        is_setting = (draw >= melody) & (draw < melody + setting)
        code = np.where(is_setting, of_setting[s], code)
        songs.append(code[:, None])
      group.append(songs)
    made.append(group)
  return made


def test_abx_tells_melodies_from_settings():
  """Catches B in the setting of X, and comparisons of a song with itself."""
  good = melody_abx.measure(codes(6, 0.7, 0.2, 0.1))
  assert good.error.mean() < 0.02 and good.easy.mean() < 0.02
  assert (good.same < good.other - 0.2).all()
  for kind in (codes(20, 0.0, 0.9, 0.1), codes(20, 0.0, 0.0, 1.0)):
    bad = melody_abx.measure(kind)
    assert abs(bad.error.mean() - 0.5) < 0.08
  random = melody_abx.measure(melody_abx.shuffled(codes(20, 0.7, 0.2, 0.1)))
  mean, low, high = random.interval("error")
  assert low < 0.5 < high and abs(mean - 0.5) < 0.12
  constant = [[[np.zeros((9, 1), int)] * 2] * 4] * 3
  found = melody_abx.measure(constant)
  assert (found.error == 0.5).all() and found.used == 1


def test_melodies_return_with_other_instruments():
  """Catches a setting that changes the melody, and noise that is shared."""
  (group,) = melody_pairs.render(1, seconds=1.0, rate=8000)
  tags = [[song.tags for song in songs] for songs in group]
  assert len(group) == 4
  flat = [song for songs in tags for song in songs]
  for name in ("tempo", "key", "mode", "beats"):
    assert len({song[name] for song in flat}) == 1
  for one, other in tags:
    assert one["degrees"] == other["degrees"]
    assert one["family"] != other["family"]
  assert len({song["seed"] for song in flat}) == 8
  for s in range(2):
    assert len({songs[s]["timbre"] for songs in tags}) == 1
  one, other = (song.audio[:, 0] for song in group[0])
  assert one.shape == (8000,) and abs(np.corrcoef(one, other)[0, 1]) < 0.9


def test_probes_find_what_is_there():
  """Catches a test on the songs of the training, and labels mixed up."""
  rng = np.random.default_rng(0)
  tags = [
    dict(key="CDE"[i], speed="slow", family="ab"[j], drums=bool(k))
    for i, j, k in rng.integers(0, (3, 2, 2), (120, 3))
  ]
  heard = rng.normal(size=(120, 6))
  heard[:, 0] += [4.0 * each["drums"] for each in tags]
  found = probes.accuracy(heard, tags, 80)
  assert found["drums"][0] > 0.9 and "tempo" not in found
  assert found["drums"][1] <= found["drums"][0] <= found["drums"][2]
  assert found["instrument"][0] < 0.75  # nothing says it
  assert 0.2 < probes.chance(tags, 80)["key"][0] < 0.6


def test_tag_probes():
  """Catches scores by a clip's own label, and words that say nothing."""
  rng = np.random.default_rng(0)
  drums, calm = rng.random((2, 150)) < 0.4
  clips = [
    Clip("", np.zeros(1), caption=f"It is {a} {b}, with a pad.")
    for a, b in zip(
      np.where(drums, "Drums", "no"), np.where(calm, "calm", "x"), strict=True
    )
  ]
  known = tag_probes.labels(clips)
  assert set(known) == {"drums", "calm"}  # All have the others.
  np.testing.assert_array_equal(known["calm"], calm)
  tags = [Clip("", np.zeros(1), tags={"slow": bool(a)}) for a in drums]
  with pytest.raises(UserError, match="of 150 clips"):
    tag_probes.labels(tags)
  tags = [Clip("", np.zeros(1), tags={"is": ["slow"] * int(a)}) for a in drums]
  np.testing.assert_array_equal(tag_probes.labels(tags)["slow"], drums)
  heard = rng.normal(size=(150, 60))
  heard[:, 0] += 4 * calm
  found = tag_probes.area(heard, known)
  assert set(found) == {"mean", "drums", "calm"}
  assert found["calm"][0] > 0.9
  # So many features fit the labels, but nothing says this one.
  assert found["drums"][1] < 0.55 and found["drums"][0] < 0.65
  both = (found["calm"][0] + found["drums"][0]) / 2
  np.testing.assert_allclose(found["mean"][0], both)


def test_tags_of_albums_are_at_chance_if_nothing_tells_them():
  """Catches clips ranked by how many clips of other albums have a tag.

  Each part of the clips is one album, which nearly always has the tag or nearly
  never. With constant features each part is scored by the others' mean.
  """
  part = np.arange(150) // 15 % 5
  has = (part % 2 == 0) ^ (np.arange(150) % 10 == 0)
  found = tag_probes.area(np.zeros((150, 3)), {"rock": has})
  assert found["rock"] == found["mean"] == (0.5, 0.5, 0.5)
  noise = np.random.default_rng(0).normal(size=(150, 5))
  found = tag_probes.area(noise, {"rock": has})["rock"]
  assert found.low < 0.5 < found.high
  # What all clips of some parts have, and none of the others, is no label.
  clips = [
    Clip("", np.zeros(1), caption="jazz tune" if each % 2 else "rock tune")
    for each in part
  ]
  words = "150 clips are compared within 5 parts, but each word"
  with pytest.raises(UserError, match=words):
    tag_probes.labels(clips)


@pytest.mark.parametrize("begin", [0, 37, 80])
def test_tags_of_folders_that_are_genres(begin):
  """Catches parts of one genre each, which compare nothing."""
  rock = (np.arange(100) >= begin) & (np.arange(100) < begin + 20)
  clips = [
    Clip("", np.zeros(1), tags={"genre": "rock" if each else "jazz"})
    for each in rock
  ]
  known = tag_probes.labels(clips)
  np.testing.assert_array_equal(known["rock"], rock)
  np.testing.assert_array_equal(known["jazz"], ~rock)
  noise = np.random.default_rng(0).normal(size=(100, 4))
  told = tag_probes.area(noise + 4 * rock[:, None], known)
  assert told["rock"].value > 0.9
  silent = tag_probes.area(np.zeros((100, 4)), known)
  assert silent["rock"] == (0.5, 0.5, 0.5)
  # The words of too few clips are refused for another reason.
  with pytest.raises(UserError, match="in 10 of 9 clips and not in 10 others"):
    tag_probes.labels(clips[begin : begin + 9])


def test_mel_tokens_are_a_tokenizer():
  """Catches frames that depend on the batch, and centres of nothing."""
  rng = np.random.default_rng(0)
  songs = [rng.normal(0, 0.1, (16000, 1)).astype(np.float32) for _ in "12"]
  made = mel_tokens.fitted(songs, 16000, levels=1, size=8)
  assert made.codebook_sizes == (8,)
  x = np.zeros((2, 16000, 1), np.float32)
  x[0], x[1, :9000] = songs[0], songs[1][:9000]
  together = made.encode(x, lengths=[16000, 9000])
  alone = made.encode(songs[1][:9000])
  assert together.shape == (2, 25, 1) and alone.shape == (1, 15, 1)
  np.testing.assert_array_equal(together[1, :15], alone[0])


@pytest.fixture
def shape(tmp_path, monkeypatch):
  """A bundle of a tokenizer with codebooks, which hears only loudness."""
  monkeypatch.setitem(bundle.LOADERS, "shape", "extension.shape:Shape")
  variables = {"params": {"weight": np.ones(3, np.float32)}}
  bare = Shape({"kind": "shape", "model": {}}, variables)
  statistics = {"mean": np.array([0, -2, 3]), "scale": np.array([9, 1, 0])}
  embed = np.random.default_rng(0).normal(size=(1, 8, 3))
  config, variables = bare.with_codebooks(statistics, embed)
  bundle.save(tmp_path / "shape", config, variables)
  bundle.save(tmp_path / "bare", bare.config, bare.variables)
  return tmp_path / "shape"


@pytest.mark.slow
def test_the_command(shape, model, tmp_path, capsys, monkeypatch):
  """Catches results that are not written, and options without effect."""
  monkeypatch.setattr(tag_probes, "FEWEST", 2)
  (tmp_path / "music").mkdir()
  rng = np.random.default_rng(0)
  for i, word in enumerate(["calm", "loud"] * 5):
    x = rng.normal(0, 0.01 if word == "calm" else 0.1, 8000)
    soundfile.write(tmp_path / f"music/{i}.wav", x, 8000)
    (tmp_path / f"music/{i}.txt").write_text(f"a {word} song")
  words = ["evaluate", "semantic", "--model", shape]
  full = [*words, "--codec", model, "--seconds", "0.5", "--clips", "12"]
  full += ["--audio", tmp_path / "music"]
  assert not cli.main([str(w) for w in [*full, "--out", tmp_path / "out"]])
  printed = capsys.readouterr().out
  for line in (
    "shape ",
    "k-means of mel frames",
    "codec ",
    "chance",
    "mel stat",
    "mean ",
  ):
    assert f"\n{line}" in printed
  assert (tmp_path / "out" / "report.html").is_file()
  found = json.loads((tmp_path / "out" / "results.json").read_text())
  assert found["about"]["groups"] == 2
  mean, low, high = found["tokens"]["chance"]["error"]
  assert 0 < low <= mean <= high < 1
  assert set(found["probes"]) == {
    "shape", "mel statistics", "codec latents", "most frequent answer",
  }  # fmt: skip
  assert set(found["tags"]) == {
    "shape", "mel statistics", "codec latents", "chance",
  }  # fmt: skip
  for words in found["tags"].values():
    assert set(words) == {"mean", "calm", "loud"}
  # The tokenizer hears loudness.
  assert found["tags"]["shape"]["loud"][0] > 0.9


def test_what_is_refused(shape, model, tmp_path, fails):
  """Catches options without effect, and a tokenizer without codes."""
  words = ["evaluate", "semantic", "--model", shape]
  assert "omit --tokens" in fails(*words, "--tokens", tmp_path)
  assert "at least 12" in fails(*words, "--clips", "9")
  assert "needs --audio" in fails("evaluate", "--model", model)
  assert "--codec goes" in fails(
    "evaluate", "--model", model, "--audio", ".", "--codec", model
  )
  words[-1] = tmp_path / "bare"
  assert "no codebooks yet" in fails(*words)
