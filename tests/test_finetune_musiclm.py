"""`mmdcodec finetune` for a MusicLM: a folder of audio changes its stages.

Catches: tokenizers that change, a stage that starts from anything but its own
weights or is left out, conditions that a stage loses, work done again when the
command is repeated, clips and conditions of different lengths, and options that
do nothing.
"""

import json
import re
import shutil

import jax
import numpy as np
import pytest
import random_musiclm as parts_of
import soundfile

import mmdcodec
from mmdcodec import bundle
from mmdcodec.audio import synth
from mmdcodec.cli.main import main
from mmdcodec.data.token_records import TokenSource
from mmdcodec.generation.musiclm import LoadedMusicLM
from mmdcodec.generation.stage import Stage
from mmdcodec.train import config_checks
from mmdcodec.train.task import make_task
from mmdcodec.workflows import finetune_musiclm, stage_training
from mmdcodec.workflows.finetune_job import Options

STEPS, RATE = 2, 0.01


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A tiny MusicLM's bundle."""
  folder = tmp_path_factory.mktemp("musiclm") / "musiclm"
  bundle.save(folder, *parts_of.musiclm())
  return str(folder)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
  """Four short songs, one of them with a caption."""
  folder = tmp_path_factory.mktemp("songs")
  for seed in range(4):
    song = synth.render(seed, seconds=2, rate=parts_of.RATE)
    soundfile.write(folder / f"{seed}.wav", song.audio, song.rate)
  for name in ("1", "2", "3"):
    (folder / f"{name}.txt").write_text("a song")
  return folder


@pytest.mark.slow
def test_interrupted_then_continued(
  tmp_path, model, songs, monkeypatch, capsys, compile_fast
):
  run = tmp_path / "run"
  argv = ["finetune", str(songs), str(run), "--model", model]
  argv += ["--steps", str(STEPS), "--learning-rate", str(RATE)]
  train = stage_training.train

  def interrupted(config, workdir):
    if workdir.name == "coarse_run":
      raise KeyboardInterrupt
    return train(config, workdir)

  with monkeypatch.context() as patch:
    patch.setattr(stage_training, "train", interrupted)
    assert main(argv) == 130
  first = capsys.readouterr().out
  assert "4 files, 6.00 s to train on; 1 held out" in first
  for words in ("caption", "train fine"):
    assert words not in first
  for words in ("1 x 16 at 25 Hz (semantic)", "batch 8 x 1.6 s, 2 steps"):
    assert words in first
  assert main(argv) == 0
  second = capsys.readouterr().out
  assert second.count("done before") == 4
  assert re.search(r"generate 'a song' new.wav --model \S+/run/bundle", second)
  assert main(argv) == 0
  assert capsys.readouterr().out.count("done before") == 8

  old, new = mmdcodec.load(model), mmdcodec.load(run / "bundle")
  assert isinstance(new, LoadedMusicLM)
  for key in parts_of.TOKENIZERS:
    assert getattr(new, key).hash == getattr(old, key).hash
  results = json.loads((run / "results.json").read_text())["bits_per_frame"]
  assert list(results) == list(parts_of.STAGES)
  for name, stage in new.parts.stages.items():
    before = old.parts.stages[name]
    assert (stage.target, stage.streams) == (before.target, before.streams)
    assert stage.seconds == before.seconds
    # Each step of Adam moves a weight by the learning rate at most, so that
    # weights tell where they began.
    moved = jax.tree.map(
      lambda a, b: np.abs(a - b).max(),
      stage.variables["params"],
      before.variables["params"],
    )
    furthest = max(jax.tree.leaves(moved))
    assert RATE / 2 < furthest < 3 * STEPS * RATE
    bits = results[name]
    assert bits["after"] < bits["before"] - 0.01
    assert f"{name} {bits['after']:.3f} ({bits['before']:.3f} before)" in second
  audio = new.generate("a song", seconds=0.4)
  assert audio.shape == (1, 3200, 1) and np.isfinite(audio).all()
  # What is held out is not trained on.
  paths = {}
  for split in stage_training.SPLITS:
    source = TokenSource(run / "tokens" / split / "codec")
    paths[split] = {source[i]["path"] for i in range(len(source))}
  assert len(paths["train"]) == 3 and len(paths["valid"]) == 1
  assert not paths["train"] & paths["valid"]


@pytest.mark.parametrize("seconds", [None, 0.4])
def test_configs(seconds):
  """Catches a stage's conditions that are longer than its clips."""
  options = Options(seconds=seconds)
  found = {}
  for name in parts_of.STAGES:
    config = finetune_musiclm.stage_config(
      options, name, Stage(*parts_of.stage(name))
    )
    config_checks.check(config)
    make_task(config)
    assert config["condition_dropout"] == 0.1
    model = config["model"]
    conditions = model["conditions"].items()
    found[name] = model["frames"], {k: v["frames"] for k, v in conditions
                                    if v.get("frame_rate")}  # fmt: skip
  if seconds is None:
    assert found == {
      "semantic": (40, {"melody": 2}),
      "coarse": (32, {"semantic": 20}),
      "fine": (12, {"coarse": 12}),
    }
  else:
    assert found == {
      "semantic": (10, {"melody": 1}),
      "coarse": (16, {"semantic": 10}),
      "fine": (12, {"coarse": 12}),
    }


def test_conditions_are_dropped_as_before():
  """Catches a stage whose guidance means something else after finetuning."""
  config, variables = parts_of.stage("semantic")
  told = {"condition_dropout": 0.3, "melody_dropout": 0.7}
  config["training"] = {"config": told}
  config = finetune_musiclm.stage_config(
    Options(), "semantic", Stage(config, variables)
  )
  assert {key: config[key] for key in told} == told


def test_a_stage_without_repeats():
  """Catches clips that are as short as the tokens that are left."""
  config, variables = parts_of.stage("semantic", collapse=True)
  config["target"]["token_rate"] = 10.0
  config = finetune_musiclm.stage_config(
    Options(), "semantic", Stage(config, variables)
  )
  assert config["model"]["frames"] == 40
  assert config["data"]["frame_rate"] == 25.0


def test_nothing_held_out(tmp_path):
  """Catches a data set that is not there."""
  config = {"data": {}}
  streams = {"joint": "mulan"}
  stage_training.set_data(config, tmp_path, "codec", streams, ["train"])
  assert config["data"] == {
    "train": [str(tmp_path / "train" / "codec")],
    "valid": [],
    "streams": {"joint": [str(tmp_path / "train" / "mulan")]},
  }


@pytest.mark.usefixtures("all_devices")
def test_mistakes(tmp_path, model, songs, fails):
  run = tmp_path / "run"
  argv = ["finetune", songs, run, "--model", model]
  table = tmp_path / "captions.csv"
  table.write_text("file,caption\n0.wav,noise\n")
  error = fails(*argv, "--captions", table)
  assert "from the audio alone; leave it out" in error
  error = fails(*argv, "--seconds", "2")
  assert "(semantic 1.6 s, coarse 0.8 s, fine 0.3 s)" in error
  assert "multiple" in fails(*argv, "--batch", "3")
  assert not run.exists()
  inside = tmp_path / "job" / "bundle"
  shutil.copytree(model, inside)
  error = fails("finetune", songs, inside.parent, "--model", inside, "--force")
  assert "inside the workdir" in error
  assert (inside / "config.json").exists()
