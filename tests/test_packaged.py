"""Models that ship with the package, and the job that trains them.

Catches: a name that does not open its model, a packaged model that hides a
folder of the user's, weights or cards that are no part of the package, a card
without the music, music whose licence does not allow the use, and a quickstart
that begins without letting its model be heard.
"""

import csv
import json
import pathlib
import shutil
import sys
import types
import zlib

import fast_xla
import flax
import jax
import numpy as np
import pytest
import safetensors.numpy
import soundfile
from mmdcodec.configs import small, small_joint, small_music, small_musiclm
from random_codec import write_random_codec
from random_music import random_music

import mmdcodec
from mmdcodec import bundle, packaged
from mmdcodec.audio import song_plan, synth
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.evaluate import reconstruction, total_correlation, visqol
from mmdcodec.models import token_lm
from mmdcodec.store import scaled, tensors
from mmdcodec.workflows import (
  packaged_command,
  packaged_joint,
  packaged_models,
  packaged_music,
  packaged_musiclm,
  packaged_text,
  packaged_training,
  quickstart,
  quickstart_first,
  quickstart_job,
)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
  """A package with one codec, "little", in a folder of its own."""
  folder = tmp_path / "shelf"
  write_random_codec(folder / "little", 0)
  monkeypatch.setattr(packaged, "FOLDER", folder)
  return folder


def test_a_name_opens_a_packaged_model_unless_a_folder_has_it(
  shelf, tmp_path, monkeypatch
):
  assert packaged.names() == ["little"]
  shipped = mmdcodec.load("little").hash
  assert shipped == mmdcodec.load(shelf / "little").hash
  with pytest.raises(UserError, match="litle holds no model"):
    mmdcodec.load("litle")
  monkeypatch.chdir(tmp_path)
  write_random_codec(tmp_path / "little", 1)
  assert mmdcodec.load("little").hash != shipped


def test_only_names_are_resolved(shelf):
  """Catches a path of the user's that is looked for in the package."""
  resolve = lambda start: packaged.resolve_start({"init_from": start})
  assert resolve("little") == {"init_from": str(shelf / "little")}
  for start in ("", "runs/little", "/runs/little"):
    assert resolve(start) == {"init_from": start}


def test_what_ships_is_complete_and_small():
  """Catches a model without its card, and weights that outgrow the package."""
  sizes = 0
  for name in packaged.names():
    folder = packaged.FOLDER / name
    # As in a wheel, which is compressed.
    sizes += len(zlib.compress((folder / bundle.WEIGHTS_FILE).read_bytes()))
    card = (folder / "README.md").read_text()
    for part in ("## Training", "## Measures", "## Music", "CC"):
      assert part in card, (name, part)
  assert packaged.names() and sizes <= 16e6


def test_the_packaged_codec_codes_music():
  """Of a song that it was not trained on, the loudness of bands is near."""
  codec = mmdcodec.load("small")
  x = synth.render(7, seconds=2.0, rate=codec.rate).audio
  x = np.asarray(x, np.float32).reshape(1, -1, 1)
  y = codec.decode(codec.encode(x), length=x.shape[1])
  found = float(reconstruction.mel_distance(x, y, codec.rate)[0])
  silence = float(reconstruction.mel_distance(x, 0 * y, codec.rate)[0])
  assert found < 8 < silence


@pytest.fixture
def little_music(shelf, tmp_path):
  """A music model on the shelf, which names its codec; and all of it."""
  config, variables = random_music(tmp_path / "of the same seed")
  codec = variables.pop("codec")
  target = {"hash": mmdcodec.load("little").hash}
  named = {**config, "codec": {"packaged": "little"}, "target": target}
  bundle.save(shelf / "little_music", named, variables)
  return config, {**variables, "codec": codec}


def test_a_music_model_names_its_codec(shelf, little_music, tmp_path):
  """Catches another codec, one stored twice, and one that is missing."""
  bundle.save(tmp_path / "whole", *little_music)
  whole, named = (
    mmdcodec.load(tmp_path / "whole"),
    mmdcodec.load("little_music"),
  )
  assert named.codec.hash == whole.codec.hash == mmdcodec.load("little").hash
  pieces = [model.generate("a tune", seconds=0.1) for model in (whole, named)]
  np.testing.assert_array_equal(*pieces)
  size = lambda path: (path / bundle.WEIGHTS_FILE).stat().st_size
  params = size(tmp_path / "whole") - size(shelf / "little_music")
  assert 0.9 < params / size(shelf / "little") < 1.1
  assert named.codec.codebooks == 4
  write_random_codec(shelf / "other", 5)
  shutil.rmtree(shelf / "little")
  with pytest.raises(UserError, match="needs the packaged codec 'little'"):
    mmdcodec.load(shelf / "little_music")
  (shelf / "other").rename(shelf / "little")
  with pytest.raises(UserError, match="codes of another codec"):
    mmdcodec.load(shelf / "little_music")


def test_what_ships_can_be_trained_further():
  """Catches a config that no longer describes the model that it begins from.

  Shapes alone do not tell: they are the same with other delays or ratios.
  """
  for config in (small, small_music):
    further = config.get_config("further").to_dict()
    name = further["init_from"]
    shipped = bundle.read(packaged.FOLDER / name).config
    assert shipped["model"] == json.loads(json.dumps(further["model"]))
    here = packaged.resolve_start(further)["init_from"]
    assert here == str(packaged.FOLDER / name)
  model = small_joint.get_config().model.to_dict()
  shipped = bundle.read(packaged.FOLDER / "small_joint").config["model"]
  assert shipped == json.loads(json.dumps(model))


def test_the_packaged_joint_embedding_knows_words():
  """Songs are nearer to their own captions than to those of others."""
  joint = mmdcodec.load("small_joint")
  requests = song_plan.balanced(9, 16)
  songs = [
    synth.render(900 + i, seconds=10.0, rate=joint.rate, **each)
    for i, each in enumerate(requests)
  ]
  heard = joint.embed_audio(np.stack([song.audio for song in songs]))
  read = joint.embed_text([song.caption for song in songs], bridge="mapper")
  near = np.asarray(read) @ np.asarray(heard).T
  ranks = (near > np.diag(near)[:, None]).sum(1)
  # By chance 7.5; such a mean of 16 ranks is below 4.5 in 1 of 200 cases.
  assert ranks.mean() < 4.5


def test_the_coarse_stage_fits_the_music_model_that_it_begins_from():
  """Catches a decoder that cannot begin from the packaged model."""
  config = small_musiclm.get_config("coarse_lm").to_dict()
  codec = bundle.read(packaged.FOLDER / "small").config["model"]
  config["model"]["codebooks"] = codec["codebooks"] // 2
  config["model"]["codebook_size"] = codec["codebook_size"]
  expected = token_lm.shapes(token_lm.from_config(config["model"]))["params"]
  found = bundle.read(packaged.FOLDER / config["init_from"]).variables["params"]
  of_codes = lambda tree: {
    path: x.shape
    for path, x in flax.traverse_util.flatten_dict(tree, sep="/").items()
    if not path.startswith("conditioner") and "/cross_" not in path
  }
  assert of_codes(found) == of_codes(expected)


def test_info_knows_the_names(little_music, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  for name in ("little", "little_music"):
    assert main(["info", name]) == 0
    assert str(packaged.FOLDER / name) in capsys.readouterr().out


def test_what_an_earlier_version_let_be_heard_is_made_again(tmp_path):
  """Catches a page that misses the music of the first minute."""
  job = quickstart_job.make_job(tmp_path, tiny=True)
  listen = quickstart.make_stages(job)[0]
  assert listen.name == "listen"
  (tmp_path / "first").mkdir()
  (tmp_path / "first" / "first.json").write_text("{}")
  assert not all(path.exists() for path in listen.outputs)


def test_captions_are_labelled_with_what_they_say(monkeypatch):
  """Catches labels of another song, and values that are mixed up."""
  monkeypatch.setattr(packaged_text, "CAPTIONS", 60)
  texts, labels, sizes = packaged_text.captions()
  assert labels.shape == (60, len(packaged_text.TRAITS)) and len(texts) == 60
  assert (labels.max(0) < sizes).all()
  drums = labels[:, packaged_text.TRAITS.index("drums")]
  said = [("no drums" not in text and "drums" in text) for text in texts]
  # False sorts before True, and every phrasing tells.
  np.testing.assert_array_equal(drums, said)
  waltz = labels[:, packaged_text.TRAITS.index("beats")]
  assert {waltz[i] for i, text in enumerate(texts) if "waltz" in text} == {0}


def test_steps_are_chosen_once(tmp_path, monkeypatch):
  """Catches a schedule that a second start of the job changes."""
  speeds = iter([2.0, 5.0])

  def train(config, workdir, log):
    assert config["steps"] == packaged_training.PROBE
    row = {"step": 40, "train/steps_per_second": next(speeds)}
    lines = [json.dumps(row), '{"step": 41, "train']
    (pathlib.Path(workdir) / "metrics.jsonl").write_text("\n".join(lines))

  monkeypatch.setattr(packaged_training.loop, "train", train)
  config = {"optimizer": {"warmup": 30}}
  for _ in range(2):
    assert packaged_training.choose_steps(tmp_path, "a", config, 100) == 200
  # Another training was probed at the same time.
  both = {"a": 200, "c": 300}
  (tmp_path / "other.json").write_text(json.dumps(both))
  monkeypatch.setattr(
    packaged_training.metrics,
    "read",
    lambda folder: (
      (tmp_path / "other.json").replace(tmp_path / "steps.json")
      and [{"train/steps_per_second": 5.0}]
    ),
  )
  assert packaged_training.choose_steps(tmp_path, "b", config, 100) == 500
  known = json.loads((tmp_path / "steps.json").read_text())
  assert known == {**both, "b": 500}
  assert config == {"optimizer": {"warmup": 30}}


def test_no_paths_of_this_machine_are_shipped(tmp_path):
  """Catches a path in a config, and a start that nobody else can name."""
  job = packaged_command.Job(tmp_path / "job", 1.0, "little")
  data = {f"{job.workdir}/data/songs": 0.5, f"{job.workdir}/data/real": 0.5}
  settings = {
    "init_from": f"{job.workdir}/begin/coarse_lm",
    "codec": str(packaged.FOLDER / "small"),
    "data": {"train": data, "streams": {"joint": [f"{job.workdir}/tokens"]}},
    "steps": 3,
  }
  made = {"parts": {"a": {"training": {"config": settings}}}}
  found = packaged_training.without_paths(made, job)
  assert found["parts"]["a"]["training"]["config"] == {
    "init_from": "little",
    "codec": "small",
    "data": {
      "train": {"data/songs": 0.5, "data/real": 0.5},
      "streams": {"joint": ["tokens"]},
    },
    "steps": 3,
  }
  settings["init_from"] = str(packaged.FOLDER / "small_music")
  found = packaged_training.without_paths(settings, job)
  assert found["init_from"] == "small_music"


def test_the_quickstart_begins_with_what_the_packaged_models_make(
  little_music, tmp_path, capsys, monkeypatch
):
  """The files are those of the models, and the page shows them."""
  monkeypatch.setattr(quickstart_first, "MODEL", "little")
  monkeypatch.setattr(quickstart_first, "MUSIC", "little_music")
  job = quickstart_job.make_job(tmp_path / "job", tiny=True)
  codec = mmdcodec.load("little")
  job.workdir.mkdir()
  assert "'little' and 'little_music'" in quickstart_first.make(job)
  first = job.workdir / "first"
  said = capsys.readouterr().out
  for name in ("reconstruction", "music"):
    assert f"listen: {first / name}.flac" in said
  # 4 codebooks of 32 codes, 400 times a second.
  assert "8.0 kbps" in said
  read = lambda name: soundfile.read(first / f"{name}.flac")[0]
  song = synth.render(quickstart_first.SEED, seconds=1.0, rate=codec.rate).audio
  x = np.asarray(song, np.float32).reshape(1, -1, 1)
  np.testing.assert_allclose(read("original"), x[0, :, 0], atol=1e-4)
  y = codec.decode(codec.encode(x), length=x.shape[1])[0, :, 0]
  np.testing.assert_allclose(
    read("reconstruction"), np.clip(y, -1, 1), atol=2e-4
  )
  music = mmdcodec.load("little_music")
  piece = music.generate(quickstart_first.PROMPT, seconds=1.0)[0, :, 0]
  np.testing.assert_allclose(read("music"), np.clip(piece, -1, 1), atol=2e-4)
  (section,) = quickstart_first.section(job.workdir)
  assert [len(clip.recordings) for clip in section.clips] == [2, 1]


@pytest.fixture
def real(tmp_path):
  """Music with a manifest: noise, one file of which may not be used."""
  folder, rng = tmp_path / "real", np.random.default_rng(0)
  folder.mkdir()
  rows = []
  for i, split in enumerate(("train", "valid", "test", "train")):
    file = f"{i}.wav"
    soundfile.write(folder / file, rng.normal(0, 0.1, 48000), 24000)
    licence = "CC-BY-4.0" if i < 3 else "CC-BY-NC-4.0"
    rows.append(
      dict(
        split=split, file=file, seconds=2.0, licence=licence,
        title=f"piece {i}", artist="somebody", caption="noise",
      )
    )  # fmt: skip
  with (folder / "manifest.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
  return folder


def stored_types(folder, where):
  """Types of the matrices in a bundle's file whose names contain a text."""
  arrays = safetensors.numpy.load_file(folder / bundle.WEIGHTS_FILE)
  return {
    str(array.dtype)
    for name, array in arrays.items()
    if where in name and array.ndim > 1 and not name.endswith(scaled.SCALE)
  }


@pytest.mark.soak
def test_the_job_that_trains_packaged_models(
  real, tmp_path, shelf, compile_fast, monkeypatch
):
  """From music to a codec with its card, in the place of the packaged one."""
  monkeypatch.setattr(total_correlation, "STEPS", (24, 24))
  argv = [str(real), str(tmp_path / "job"), "--tiny", "--install"]
  argv += ["--without-twin"]
  packaged_models.main(argv)
  assert packaged.names() == ["little", "small"]
  params = bundle.read("small").variables["params"]
  kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(params["encoder"])}
  assert kinds == {"bfloat16"}
  assert stored_types(shelf / "small", "decoder") == {"int8"}
  config = (shelf / "small" / bundle.CONFIG_FILE).read_text()
  assert str(tmp_path) not in config and "data/songs_train" in config
  card = (shelf / "small" / "README.md").read_text()
  assert "piece 0, somebody (CC-BY-4.0)" in card and "piece 3" not in card
  measures = json.loads((tmp_path / "job" / "measures.json").read_text())
  assert set(measures["dependence"]) == {"small"}
  assert not (tmp_path / "job/music/real/train/3.wav").exists()


@pytest.mark.soak
def test_the_job_that_trains_the_packaged_music_model(
  tmp_path, monkeypatch, compile_fast
):
  """From songs to a model that names its codec, with its card."""
  tiny = small_music.get_config("tiny")
  config = tiny.model
  shelf = tmp_path / "shelf"
  monkeypatch.setattr(packaged, "FOLDER", shelf)
  write_random_codec(
    shelf / "little", 0, codebooks=config.codebooks,
    codebook_size=config.codebook_size,
  )  # fmt: skip
  tiny.data.frame_rate = mmdcodec.load("little").frame_rate
  monkeypatch.setattr(small_music, "get_config", lambda arg: tiny)
  monkeypatch.setattr(packaged_music, "CODEC", "little")
  argv = [str(tmp_path / "job"), "--tiny", "--install"]
  packaged_music.main(argv)
  assert packaged.names() == ["little", "small_music"]
  music = mmdcodec.load("small_music")
  assert music.codec.hash == mmdcodec.load("little").hash
  settings = music.config["training"]["config"]
  assert str(tmp_path) not in json.dumps(settings)
  card = (shelf / "small_music" / "README.md").read_text()
  measures = json.loads((tmp_path / "job" / "measures.json").read_text())
  assert set(measures["prompts"]) == {"drums", "bass", "speed", "melody"}
  for words in ("12 built-in songs", "| made |", "bits per frame on held-out"):
    assert words in card


@pytest.fixture(scope="module")
def joint_shelf(tmp_path_factory):
  """A package with the joint embedding of a job, and with nothing else."""
  folder = tmp_path_factory.mktemp("joint")
  with pytest.MonkeyPatch.context() as patch:
    (folder / "shelf").mkdir()
    patch.setattr(packaged, "FOLDER", folder / "shelf")
    patch.setenv("XLA_FLAGS", fast_xla.ONE_DEVICE)
    packaged_joint.main([str(folder / "job"), "--tiny", "--install"])
  return folder / "shelf"


@pytest.mark.slow
def test_the_job_that_trains_the_packaged_joint_embedding(
  joint_shelf, monkeypatch
):
  """From songs to an embedding with codebooks, a bridge and a card."""
  monkeypatch.setattr(packaged, "FOLDER", joint_shelf)
  assert packaged.names() == ["small_joint"]
  joint = mmdcodec.load("small_joint")
  assert joint.codebooks == 2 and joint.bridge == "mapper"
  assert stored_types(joint_shelf / "small_joint", "params/") == {"int8"}
  settings = joint.config["training"]["config"]
  assert str(joint_shelf.parent) not in json.dumps(settings)
  card = (joint_shelf / "small_joint" / "README.md").read_text()
  for words in ("16 built-in songs", "text to music", "8 clips", "first 1"):
    assert words in card


@pytest.mark.soak
def test_the_job_that_trains_the_packaged_musiclm(
  joint_shelf, tmp_path, monkeypatch, compile_fast
):
  """From songs to a model that names its parts; then further from that."""
  shelf = tmp_path / "shelf"
  monkeypatch.setattr(packaged, "FOLDER", shelf)
  shutil.copytree(joint_shelf, shelf)
  write_random_codec(shelf / "small", 0)
  argv = [str(tmp_path / "job"), "--tiny", "--install"]
  packaged_musiclm.main(argv)
  assert packaged.names() == ["small", "small_joint", "small_musiclm"]
  music = mmdcodec.load("small_musiclm")
  for part, name in (("codec", "small"), ("joint", "small_joint")):
    assert getattr(music.parts, part).hash == mmdcodec.load(name).hash
  assert [*music.parts.stages] == ["semantic", "coarse"]
  config = json.loads((shelf / "small_musiclm/config.json").read_text())
  assert str(tmp_path) not in json.dumps(config)
  stored = tensors.read(shelf / "small_musiclm/model.safetensors", "")
  assert {name.split("/")[0] for name in stored} == {
    "semantic", "melody", "semantic_lm", "coarse_lm",
  }  # fmt: skip
  card = (shelf / "small_musiclm" / "README.md").read_text()
  for words in ("8 built-in songs", "prompts: cosine", "coarse stage: step"):
    assert words in card
  before = music.parts.semantic.hash
  # A later job goes on from it; a tiny one must be told so.
  monkeypatch.setattr(
    packaged_musiclm.packaged_command, "start", lambda args, name: name
  )
  packaged_musiclm.main([str(tmp_path / "more"), "--tiny", "--install"])
  music = mmdcodec.load("small_musiclm")
  assert music.parts.semantic.hash == before
  settings = music.config["parts"]["coarse_lm"]["training"]["config"]
  assert settings["init_from"] == "small_musiclm"
  card = (shelf / "small_musiclm" / "README.md").read_text()
  assert "melody embedding: that of `small_musiclm`" in card
  shutil.rmtree(shelf / "small_joint")
  with pytest.raises(UserError, match="packaged joint 'small_joint'"):
    mmdcodec.load(shelf / "small_musiclm")


def test_listeners_scores_are_taken_if_there_are_any(monkeypatch):
  """Catches a rate, a shape or an order that ViSQOL does not take."""
  heard = []

  class VisqolApi:
    def create(self, mode):
      assert mode == "audio"

    def measure_from_arrays(self, reference, degraded, rate):
      heard.append((reference, degraded, rate))
      return types.SimpleNamespace(moslqo=float(len(heard)))

  fake = types.SimpleNamespace(VisqolApi=VisqolApi)
  monkeypatch.setitem(sys.modules, "visqol", fake)
  x, y = (np.full((2400, 2), size, np.float32) for size in (0.5, 0.25))
  assert visqol.mean_score([(x, y), (y, x)], 24000) == 1.5
  assert [rate for _, _, rate in heard] == [48000, 48000]
  for (first, second, _), sizes in zip(
    heard, [(0.5, 0.25), (0.25, 0.5)], strict=True
  ):
    assert first.shape == second.shape == (4800,)
    middle = first[2400], second[2400]
    np.testing.assert_allclose(middle, sizes, rtol=1e-2)
