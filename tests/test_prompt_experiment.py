"""The experiment of prompts, and the classifiers that it listens with.

Must catch: classifiers that hear nothing, or what they were told; chance that
is none; pieces that are judged by another piece's prompt.
"""

import json
import re
import types

import jax
import numpy as np
import pytest
from random_codec import write_random_codec
from random_music import random_music

from mmdcodec import bundle
from mmdcodec.audio import files, song_captions, song_files, synth
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.evaluate import multiple, traits
from mmdcodec.experiments import prompts
from mmdcodec.store import jobs
from mmdcodec.tokenizers import loaded_codec
from mmdcodec.tokenizers.loaded_codec import LoadedCodec, fingerprint

pytestmark = pytest.mark.usefixtures("compile_fast")


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
  """Audio at 8 kHz and tags of songs of 4 s."""
  paths = song_files.write_songs(
    tmp_path_factory.mktemp("songs"),
    songs=60, seconds=4.0, rate=8000, workers=1,
  )  # fmt: skip
  audio = np.stack([files.read(path)[0][:, 0] for path in paths])
  tags = [
    json.loads(path.with_suffix(".json").read_text())["tags"] for path in paths
  ]
  return audio, tags


def test_traits_are_heard(songs):
  """Catches features without the trait in them, and labels that are mixed."""
  audio, tags = songs
  heard, told = traits.features(audio, 8000), traits.of_songs(tags)
  assert np.isfinite(heard).all()
  half = slice(0, 40), slice(40, None)
  learned = {name: values[half[0]] for name, values in told.items()}
  found = traits.Classifiers(heard[half[0]], learned)(heard[half[1]])
  for trait in ("drums", "speed"):
    result = traits.agreement(told[trait][half[1]], found[trait])
    assert result["share"] > result["chance"] + 0.15
    assert result["p"] < 0.05
  # Loudness is none of them.
  np.testing.assert_allclose(
    traits.features(0.1 * audio[:2], 8000), heard[:2], atol=1e-3
  )


def test_what_all_songs_share_is_not_learned(songs):
  """Catches a classifier of one class."""
  heard = traits.features(songs[0][:10], 8000)
  told = {"drums": ["with"] * 10, "bass": ["with", "without"] * 5}
  assert set(traits.Classifiers(heard, told)(heard)) == {"bass"}


def test_chance_is_what_strangers_agree_in():
  """Catches shares of the wrong pairs, and a p that is never large."""
  random = np.random.default_rng(0)
  told = random.choice(["a", "b"], 400, p=[0.8, 0.2]).tolist()
  found = traits.agreement(told, told, shuffles=200)
  a = np.mean(np.array(told) == "a")
  pairs = (a**2 + (1 - a) ** 2 - 1 / 400) * 400 / 399
  assert found["chance"] == pytest.approx(pairs)
  assert found["share"] == 1 and found["p"] == pytest.approx(1 / 201)
  other = random.choice(["a", "b"], 400, p=[0.8, 0.2]).tolist()
  found = traits.agreement(told, other, shuffles=200)
  assert found["share"] == pytest.approx(found["chance"], abs=0.06)
  assert found["p"] > 0.01
  # Always the same: right as often as any other.
  found = traits.agreement(told, ["a"] * 400, shuffles=50)
  assert found["share"] == pytest.approx(found["chance"])
  assert found["p"] == 1


def test_another_decoder_of_the_same_codes_is_told_apart(tmp_path):
  """Catches pieces of one codec that stay for another with the same hash."""
  write_random_codec(tmp_path, 0)
  config, variables = bundle.read_codec(tmp_path)
  kept = loaded_codec.codes_of(config, variables, config["model"])
  codecs = []
  for scale in (1.0, 1.0, 2.0):
    further = jax.tree.map(np.copy, variables)
    for kernel in jax.tree.leaves(further["params"]["decoder"]):
      kernel *= scale
    codecs.append(LoadedCodec({**config, "codes": kept}, further))
  assert len({codec.hash for codec in codecs}) == 1
  one, same, other = map(prompts.decoder_of, codecs)
  assert one == same == fingerprint(config, variables) != other


def test_a_model_that_obeys(tmp_path, monkeypatch):
  """Catches prompts and pieces that are not each other's, or left over."""
  calls, seconds, rate = [], 4.0, 8000
  # In this process: others take longer to start than the songs.
  monkeypatch.setattr(song_files, "cpus", lambda: 1)

  class Codec:
    """Hands audio through."""

    hash, config = "none", {}
    encode = staticmethod(lambda x: x)
    decode = staticmethod(lambda codes, length: codes)

  class Obedient:
    """Renders what a caption says, from another seed."""

    channels, codec = 1, Codec()
    takes = staticmethod(lambda condition: condition == "text")
    rate = 8000
    config, variables = {"model": {}}, {"params": {"w": np.zeros(1)}}
    model = types.SimpleNamespace(codebooks=4)

    def check(self, texts, **request):
      if not request["guidance"] >= 0:
        raise UserError("guidance")

    def generate(self, texts, *, seconds, seed, guidance):
      assert guidance == 2.0
      calls.append(len(texts))
      made = []
      for i, text in enumerate(texts):
        drums = "drums" in text and "no drums" not in text
        want = dict(drums=drums, bass="a bass" in text, beats=4)
        (want["speed"],) = [
          speed
          for speed, words in song_captions.SPEEDS.items()
          if any(re.search(rf"\b{word}\b", text) for word in words)
        ] or [None]
        if bpm := re.search(r"(\d+) bpm", text):
          want |= dict(tempo=int(bpm[1]), speed=None)
        song = synth.render(
          9_000 + seed + i, seconds=seconds, rate=8000, **want
        )
        made.append(song.audio)
      return np.stack(made)

  given = dict(songs=40, pieces=20, seconds=seconds, guidance=2.0)
  found = prompts.run(Obedient(), tmp_path, **given)
  for trait in ("drums", "speed"):
    assert found[trait]["made"]["p"] < 0.05
    assert found[trait]["made"]["share"] > found[trait]["made"]["chance"]
  columns, rows = prompts.table(found)
  single = [of["made"]["p"] for of in found.values()]
  corrected = multiple.holm(single)
  assert [row[columns.index("p (Holm)")] for row in rows] == [
    f"{p:.4f}" for p in corrected
  ] and corrected != single
  results = json.loads((tmp_path / "results.json").read_text())
  assert results["traits"] == found and results["about"]["songs"] == 40
  for i in range(20):
    caption = (tmp_path / "made" / f"{i:03d}.txt").read_text()
    sidecar = tmp_path / "songs" / "asked" / f"song_{i:05d}.json"
    tags = json.loads(sidecar.read_text())["tags"]
    # The prompt tells of the whole band.
    assert ("drums" in caption) == tags["drums"]
    assert ("a bass" in caption) == bool(tags["bass"])
    assert ("chords" in caption) == bool(tags["chords"])
  assert len(files.read(tmp_path / "made" / "017.flac")[0]) == seconds * rate
  # Again: what is there is not made anew, and is of these settings alone.
  assert calls == [16, 4]
  assert prompts.run(Obedient(), tmp_path, **given) == found
  assert calls == [16, 4]
  with pytest.raises(UserError, match="other settings"):
    prompts.run(Obedient(), tmp_path, **given | {"pieces": 10})
  with pytest.raises(UserError, match="other settings"):
    prompts.run(Obedient(), tmp_path, **given, balanced=True)
  with pytest.raises(UserError, match="guidance"):
    prompts.run(Obedient(), tmp_path / "new", **given | {"guidance": -1.0})

  class Further(Codec):
    """Another decoder of the same codes."""

    config, variables = {"codes": {}, "model": {}}, {"params": {}}

  # These pieces are of the codec itself, or of who knows which decoder.
  new = Obedient()
  new.codec = Further()
  of_which = "another decoder of the same codes"
  with pytest.raises(UserError, match=f"{of_which}, or by a version that did"):
    prompts.run(new, tmp_path, **given)
  path = tmp_path / jobs.FILE
  known = json.loads(path.read_text())
  known["songs"]["settings"]["decoder"] = "x"
  path.write_text(json.dumps(known))
  for music in (new, Obedient()):
    with pytest.raises(UserError, match=f"{of_which}; give another workdir"):
      prompts.run(music, tmp_path, **given)
  # With the same decoder only the rest counts.
  known["songs"]["settings"]["decoder"] = prompts.decoder_of(new.codec)
  path.write_text(json.dumps(known))
  with pytest.raises(UserError, match=r"\(songs: pieces was 20, is 10\)"):
    prompts.run(new, tmp_path, **given | {"pieces": 10})
  assert not (tmp_path / "new").exists()


@pytest.mark.soak
def test_the_command(tmp_path, capsys, fails):
  """Catches a command that can't be run, and mistakes found late."""
  config, variables = random_music(
    tmp_path / "codec", codec=dict(dilations=(1,)), frames=100, layers=1
  )
  bundle.save(tmp_path / "music", config, variables)
  argv = ["experiment", "prompts", "--model", str(tmp_path / "music")]
  argv += ["--workdir", str(tmp_path / "job"), "--songs", "12"]
  argv += ["--pieces", "3", "--seconds", "2"]
  for more, words in (
    (["--seconds", "1"], "at least 2"),
    (["--songs", "3"], "too few"),
    (["--seed", "-1"], "seed"),
    (["--guidance", "-1"], "guidance"),
    (["--config.steps=3"], "not understood"),
    (["--model", str(tmp_path / "codec")], "is no music model"),
  ):
    assert words in fails(*argv, *more)
  assert not (tmp_path / "job").exists()
  assert main([*argv, "--guidance", "1"]) == 0
  assert "pieces as prompted" in capsys.readouterr().out
  table = (tmp_path / "job" / "table.md").read_text()
  assert table.startswith("| trait |") and "drums" in table
  assert len(list((tmp_path / "job" / "made").glob("*.flac"))) == 3
