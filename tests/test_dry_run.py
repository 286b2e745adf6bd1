"""`mmdcodec train --dry-run`: what a run would do."""

import pathlib
import sys

import pytest
import toy_task

from mmdcodec.cli.main import main
from mmdcodec.train import loop, settings

CONFIG = f"""
from toy_task import toy_config
def get_config():
  config = toy_config()
  config.task = "{pathlib.Path(toy_task.__file__)}:Toy"
  return config
"""


@pytest.fixture
def command(tmp_path):
  """Returns the words of a dry run in WORKDIR."""
  file = tmp_path / "toy_run.py"
  file.write_text(CONFIG)
  workdir = tmp_path / "run"
  return [
    "train", f"--config={file}", f"--workdir={workdir}", "--dry-run",
  ]  # fmt: skip


def contents(folder):
  """Names of all files, and when they were changed."""
  return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_says_all_and_writes_nothing(tmp_path, command, capsys):
  """Catches checks that leave something, and a run that is not noticed."""
  assert main([*command, "--config.steps=7"]) == 0
  told = capsys.readouterr().out
  for line in ("steps = 7", "optimizer.b2 = 0.9", "ema = 0.99"):
    assert line in told.splitlines()
  assert "a batch: audio float32[8, 4]" in told
  assert "a new run of 7 steps" in told
  assert "memory of the device is not known" in told
  assert not (tmp_path / "run").exists()
  config = toy_task.toy_config(task=f"{toy_task.__file__}:Toy")
  loop.train(config, tmp_path / "run", log=lambda line: None)
  before = contents(tmp_path / "run")
  assert main([*command, "--config.steps=7"]) == 0
  assert "goes on at step 5 of 7" in capsys.readouterr().out
  assert main([*command, "--config.ema=0.0"]) == 2
  error = capsys.readouterr().err
  assert f"{tmp_path / 'run'} holds a run with another ema" in error
  assert contents(tmp_path / "run") == before


def test_a_run_goes_on_as_it_was_begun(tmp_path, command, capsys):
  """Catches an old run that is refused here, although `train` resumes it."""
  config = settings.plain(toy_task.toy_config())
  config["model"]["conditions"] = {}
  (tmp_path / "run").mkdir()
  settings.record_config(config, tmp_path / "run", toy_task.Toy(config))
  file = tmp_path / "toy_run.py"
  gained = """with config.model.unlocked():
    config.model.conditions = {"chroma": {"kind": "melody"}}
  return"""
  file.write_text(CONFIG.replace("return", gained))
  assert main(command) == 0
  assert "was begun without the conditions chroma" in capsys.readouterr().out


@pytest.mark.usefixtures("all_devices")
def test_mistakes_are_found(tmp_path, command, fails, monkeypatch):
  """Catches what only the run itself would miss, perhaps hours later."""
  monkeypatch.setitem(sys.modules, "wandb", None)
  for words in (command, command[:-1]):
    told = fails(*words, "--config.wandb_project=music")
    assert "pip install 'mmdcodec[wandb]'" in told
  assert not (tmp_path / "run").exists()
  codec = ["--config=codec_small:tiny", *command[2:]]
  assert "no training data" in fails("train", *codec)
  missing = f"--config.data.train={tmp_path / 'nowhere'}"
  assert "nowhere" in fails("train", *codec, missing)
  # Before data are read: a process could not take its share of such a batch.
  told = fails("train", *codec, missing, "--config.batch=12")
  assert "batch is 12" in told and "nowhere" not in told
  topology = "--topology=v5e:2x2"
  assert "--dry-run" in fails(*command[:-1], topology)
