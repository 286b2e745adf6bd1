"""`mmdcodec finetune`: a folder of audio changes a music model.

Catches: a stage that does not fit the one before it or is done again, music
that is held out and trained on, weights that move though they are frozen or do
not though they are trained, captions that get lost, and mistakes that are found
after the work.
"""

import json
import re

import jax
import numpy as np
import pytest
import soundfile
from random_music import random_music

import mmdcodec
from mmdcodec import bundle
from mmdcodec.cli.main import main
from mmdcodec.data import audio_folder
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import Notice, UserError
from mmdcodec.generation.musicgen import LoadedMusic
from mmdcodec.train.trainable import Trainable
from mmdcodec.workflows import finetune, finetune_job
from mmdcodec.workflows.finetune_job import Options

pytestmark = pytest.mark.usefixtures("compile_fast")

FRAMES = 10


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Config and variables of a tiny music model at 8 kHz."""
  folder = tmp_path_factory.mktemp("codec") / "codec"
  return random_music(
    folder, codec=dict(dilations=(1,)), frames=FRAMES, layers=1
  )


@pytest.fixture(scope="module")
def music(made, tmp_path_factory):
  """Its bundle."""
  folder = tmp_path_factory.mktemp("music") / "music"
  bundle.save(folder, *made)
  return str(folder)


@pytest.fixture
def songs(tmp_path):
  """Five files of three rates, three of them with a caption."""
  random = np.random.default_rng(0)
  folder = tmp_path / "my songs"
  (folder / "sub").mkdir(parents=True)
  for i, rate in enumerate((8000, 16000, 22050, 16000, 8000)):
    shape = (rate // 5, 2) if i == 1 else rate // 5
    x = 0.3 * random.normal(size=shape).clip(-3, 3)
    path = folder / (f"sub/{i}.wav" if i == 4 else f"{i}.wav")
    soundfile.write(path, x, rate)
    if i in (0, 1, 4):
      path.with_suffix(".txt").write_text(f"song {i}")
  return folder


def moved(before: str, after) -> set[str]:
  """Parameters that two models do not share."""
  flat = [
    {
      jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x)
      for path, x in jax.tree_util.tree_flatten_with_path(variables)[0]
    }
    for variables in (bundle.read(p).variables for p in (before, after))
  ]
  assert flat[0].keys() == flat[1].keys()
  return {name for name in flat[0] if np.any(flat[0][name] != flat[1][name])}


@pytest.mark.usefixtures("all_devices")
@pytest.mark.slow
def test_additions_interrupted_then_continued(
  tmp_path, music, songs, monkeypatch, capsys
):
  """Catches work done again or lost, and all that a user is told wrongly."""
  run = tmp_path / "run"
  argv = ["finetune", str(songs), str(run), "--model", music, "--steps", "1"]
  argv += ["--lora", "2", "--learning-rate", "0.01"]

  def interrupt(job):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(finetune, "export", interrupt)
    assert main(argv) == 130
  first = capsys.readouterr().out
  for words in (
    "5 files, 0.80 s to train on; 3 of 5 have a caption; resampled to 8000 Hz:"
    " 2 of 16000 Hz, 1 of 22050 Hz; 1 mixed to 1 channel; 1 held out",
    "400 frames of 4 codebooks",
    "batch 8 x 0.025 s, 1 steps",
  ):
    assert words in first
  assert main(argv) == 0
  second = capsys.readouterr().out
  assert second.count("done before") == 4 and "step 1/1" not in second
  assert re.search(r"generate 'song \d' new.wav --model \S+/run/bundle", second)
  assert main(argv) == 0
  assert capsys.readouterr().out.count("done before") == 6

  # What is held out is not trained on, and every caption is with its song.
  names = {}
  for split in ("train", "valid"):
    source = TokenSource(run / "tokens" / split)
    records = [source[i] for i in range(len(source))]
    names[split] = {record["path"] for record in records}
    for record in records:
      number = record["path"][-5]
      assert record["caption"] == (f"song {number}" if number in "014" else "")
  assert len(names["train"]) == 4 and len(names["valid"]) == 1
  assert not names["train"] & names["valid"]

  # A whole model again, of the same codec; nothing moved but kernels of blocks.
  new, old = mmdcodec.load(run / "bundle"), mmdcodec.load(music)
  assert isinstance(new, LoadedMusic) and new.codec.hash == old.codec.hash
  assert new.model.frames == old.model.frames == FRAMES
  changed = moved(music, run / "bundle")
  assert len(changed) > 3
  assert all("transformer/blocks" in name for name in changed)
  # The steps were large, and are seen on music that is held out.
  bits = json.loads((run / "results.json").read_text())["bits_per_frame"]
  assert bits["before"] - bits["after"] > 0.01
  assert f"{bits['after']:.3f} bits per frame, {bits['before']:.3f}" in second


def test_a_whole_model_on_two_files(tmp_path, music, songs, capsys):
  """Catches few files that are too few, and a table that is not read."""
  for path in {*songs.glob("[123].*"), *songs.rglob("*.txt")}:
    path.unlink()
  table = tmp_path / "captions.csv"
  table.write_text("file,caption\nsub/4.wav,loud noise\n")
  run = tmp_path / "run"
  argv = ["finetune", str(songs), str(run), "--model", music, "--steps", "1"]
  argv += ["--seconds", "0.02", "--captions", str(table)]
  assert main(argv) == 0
  shown = capsys.readouterr().out
  assert (
    "2 files, 0.40 s to train on; 1 of 2 have a caption; none held" in shown
  )
  assert "resampled" not in shown and "nothing is held out" in shown
  assert "generate 'loud noise'" in shown
  changed = moved(music, run / "bundle")
  for part in ("embedding", "head", "blocks", "text_encoder"):
    assert any(part in name for name in changed)
  assert not any(name.startswith("codec") for name in changed)
  assert mmdcodec.load(run / "bundle").model.frames == 8 < FRAMES


@pytest.mark.usefixtures("all_devices")
def test_configs(made):
  """Catches a T5 that is trained, a batch that can't be cut, a long warm-up."""
  config, variables = made
  plain = finetune_job.make_config(Options(), LoadedMusic(config, variables))
  assert plain["freeze"] == "" and plain["lora"]["rank"] == 0
  assert plain["batch"] == 8 == jax.device_count()
  text = {**config["model"]["conditions"]["text"], "tokenizer": "t5"}
  model = {**config["model"], "conditions": {"text": text}}
  pieces = {**config, "model": model}
  options = Options(steps=3, lora=4, seconds=99.0)
  found = finetune_job.make_config(options, LoadedMusic(pieces, variables))
  frozen = Trainable(freeze=found["freeze"]).split(
    variables["params"], jax.random.key(0)
  )[1]["frozen"]
  assert set(frozen) == {"conditioner"}
  assert set(frozen["conditioner"]) == {"text_encoder"}
  assert found["optimizer"]["warmup"] == 0
  assert (
    found["optimizer"]["learning_rate"] > plain["optimizer"]["learning_rate"]
  )
  assert found["model"]["frames"] == FRAMES
  with pytest.raises(UserError, match="multiple"):
    finetune_job.make_config(Options(batch=3), LoadedMusic(config, variables))


def test_clips_longer_than_the_model_takes(music, tmp_path):
  """Catches clips that are cut without a word."""
  options = Options(seconds=99.0)
  loaded = mmdcodec.load(music)
  with pytest.warns(Notice, match="the most that this model takes, not 99"):
    job = finetune_job.make_job(
      tmp_path / "songs", tmp_path / "job",
      model=music, music=loaded, options=options,
    )  # fmt: skip
  assert job.seconds == FRAMES / loaded.frame_rate


def test_splits(tmp_path):
  """Catches files in two places, and one of few that is taken away."""
  paths = [tmp_path / f"{i}.wav" for i in range(60)]
  split = audio_folder.split_files(paths, tmp_path, test=False)
  assert {k: len(v) for k, v in split.items()} == {"train": 57, "valid": 3}
  assert sorted(sum(split.values(), [])) == sorted(paths)
  for count, held in ((1, 0), (3, 0), (4, 1)):
    split = audio_folder.split_files(paths[:count], tmp_path, test=False)
    assert len(split["valid"]) == held and len(split["train"]) == count - held


def test_changes_are_noticed(songs, music):
  """Catches captions that were edited, and audio of the job's own."""
  job = finetune_job.make_job(
    songs,
    songs / "run",
    model=music,
    music=mmdcodec.load(music),
    options=Options(),
  )
  before = finetune.audio_settings(job)
  (songs / "run").mkdir()
  soundfile.write(songs / "run" / "new.wav", np.zeros(800), 8000)
  assert finetune.audio_settings(job) == before
  (songs / "2.txt").write_text("another")
  assert finetune.audio_settings(job) != before


def test_mistakes(tmp_path, model, music, songs, fails):
  """Catches what is found out after the work, or ends in a traceback."""
  run = tmp_path / "run"
  argv = ["finetune", songs, run, "--model"]
  assert "is no music model" in fails(*argv, model)
  assert "no model" in fails(*argv, tmp_path)
  argv.append(music)
  assert "--lora is -1" in fails(*argv, "--lora", "-1")
  assert "--steps is 0" in fails(*argv, "--steps", "0")
  assert "--learning-rate is 0" in fails(*argv, "--learning-rate", "0")
  # The option's earlier name.
  assert "--learning-rate is 0" in fails(*argv, "--rate", "0")
  assert "--seconds is nan" in fails(*argv, "--seconds", "nan")
  assert "no such file" in fails(*argv, "--captions", tmp_path / "none.csv")
  argv[1] = tmp_path / "nowhere"
  assert "no such folder" in fails(*argv)
  argv[1] = tmp_path / "empty"
  argv[1].mkdir()
  assert "no audio files" in fails(*argv)
  assert not run.exists()
  argv[1] = songs
  table = tmp_path / "captions.csv"
  table.write_text("file,caption\nother.wav,noise\n")
  error = fails(*argv, "--captions", table)
  assert "no row names any of the 5 audio files" in error
