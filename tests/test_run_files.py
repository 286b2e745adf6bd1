"""What a run leaves in its workdir: metrics and checkpoints."""

import copy
import json
import os
import re
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from mmdcodec.errors import UserError
from mmdcodec.store import (
  metrics,
  paths,
  starts,
  weights_and_biases,
  workdir,
)
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import settings


def test_lines_of_lost_steps_are_written_once(tmp_path):
  """Catches a curve that doubles back after a killed run."""
  writer = metrics.MetricWriter(tmp_path)
  for step in range(1, 6):
    writer.write(step, {"train/loss": float(step)})
  writer.close()
  with (tmp_path / metrics.FILE).open("a") as file:
    file.write('{"step": 6, "tr')  # killed while it wrote
  writer = metrics.MetricWriter(tmp_path, step=3)
  writer.write(4, {"train/loss": float("nan")})
  writer.close()
  rows = metrics.read(tmp_path)
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  assert rows[-1]["train/loss"] is None


def test_the_best_and_the_latest_checkpoints_stay(tmp_path):
  """Catches a best checkpoint that is deleted when it is no longer recent."""
  checkpoints = Checkpoints(tmp_path, keep=2, best="valid/d")
  for step, score in enumerate([5.0, 1.0, 3.0, None, 4.0], start=1):
    scores = None if score is None else {"valid/d": score}
    checkpoints.save(step, {"w": np.full(3, step)}, {"index": step}, scores)
  checkpoints.wait()
  assert checkpoints.best_step() == 2 and checkpoints.latest == 5
  checkpoints.close()
  kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
  assert kept == {2, 4, 5}
  again = Checkpoints(tmp_path, best="valid/d", read_only=True)
  assert again.best_step() == 2
  np.testing.assert_array_equal(again.restore_arrays(2)["w"], np.full(3, 2))
  again.close()


def test_old_names_of_metrics(tmp_path):
  """Older runs logged codebook usage as `use`; their curves must still show."""
  row = {"step": 5, "train/use/0": 0.5, "train/loss": 1.0}
  (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
  assert metrics.read(tmp_path) == [
    {"step": 5, "train/usage/0": 0.5, "train/loss": 1.0}
  ]


@pytest.mark.parametrize(
  "line",
  ["{}", "[]", "null", '{"step": "a"}', "\0" * 9, '{"step": 2, "a": []}'],
)
def test_damaged_lines_of_metrics_are_left_out(tmp_path, capsys, line):
  """A line without a step ended every restart of its run."""
  lines = ['{"step": 1, "train/loss": 2.0}', line, '{"step": 3}', '{"st']
  (tmp_path / metrics.FILE).write_text("\n".join(lines))
  assert [row["step"] for row in metrics.read(tmp_path)] == [1, 3]
  assert "metrics.jsonl: damaged lines" in (told := capsys.readouterr().err)
  assert "line 2)" in told
  metrics.MetricWriter(tmp_path, step=3).close()
  capsys.readouterr()
  assert len(metrics.read(tmp_path)) == 2 and not capsys.readouterr().err


def test_metrics_go_to_weights_and_biases(tmp_path, monkeypatch, capsys):
  """Catches a resumed run that becomes another one, and NaN that it refuses."""
  monkeypatch.setitem(sys.modules, "wandb", None)
  wandb = dict(project="team/music", run="12ab", name="x", config={"a": 1})
  with pytest.raises(UserError, match=r"pip install 'mmdcodec\[wandb\]'"):
    metrics.MetricWriter(tmp_path, wandb=wandb)
  made, sent = [], []

  def init(**options):
    made.append(options)
    return types.SimpleNamespace(
      log=lambda values, step: sent.append((step, values)),
      finish=lambda: sent.append("finished"),
    )

  fake = types.SimpleNamespace(init=init)
  monkeypatch.setitem(sys.modules, "wandb", fake)
  writer = metrics.MetricWriter(tmp_path, wandb=wandb)
  writer.write(3, {"train/loss": 1.5, "train/x": float("nan")})
  writer.close()
  assert sent == [(3, {"train/loss": 1.5}), "finished"]
  expected = dict(entity="team", project="music", id="12ab", resume="allow")
  assert expected.items() <= made[0].items()

  def refuse(*values, **options):
    raise RuntimeError("no API key.")

  fake.init = lambda **_: types.SimpleNamespace(log=refuse, finish=refuse)
  writer = metrics.MetricWriter(tmp_path, wandb=wandb)
  for step in (4, 5):
    writer.write(step, {"train/loss": 1.5})
  writer.close()  # no training ends for it
  assert metrics.read(tmp_path)[-1]["step"] == 5
  assert capsys.readouterr().err.count("lacks metrics of this run (no API") == 1
  fake.init = refuse
  with pytest.raises(UserError, match="no API key; log in"):
    metrics.MetricWriter(tmp_path, wandb=wandb)
  # Whoever does not ask for it needs no package.
  monkeypatch.setitem(sys.modules, "wandb", None)
  metrics.MetricWriter(tmp_path).close()


def test_a_remote_workdir_gets_the_files_of_weights_and_biases(monkeypatch):
  """Catches an offline run that is deleted with the folder it is made in."""

  class Board:
    def __init__(self, *, folder):
      self.folder = folder / "wandb/offline-run-1"

    def close(self):
      self.folder.mkdir(parents=True)
      (self.folder / "run-1.wandb").write_bytes(b"all")
      (self.folder.parent / "latest-run").symlink_to(self.folder)

  monkeypatch.setattr(weights_and_biases, "Board", Board)
  target = paths.of("memory://bucket/offline")
  writer = metrics.MetricWriter(target, wandb={})
  writer.close()
  found = [name for name in target.files() if name.startswith("wandb")]
  assert found == ["wandb/offline-run-1/run-1.wandb"]
  assert (target / found[0]).read_bytes() == b"all"
  paths.remove(target)


def test_what_killed_runs_have_left_is_deleted(tmp_path, monkeypatch):
  """Catches a disk that fills, and files of a run that goes on."""
  monkeypatch.setattr(metrics.tempfile, "tempdir", str(tmp_path))
  target = paths.of("memory://bucket/left")
  running = metrics.MetricWriter(target)
  (at,) = tmp_path.iterdir()
  names = ("killed", "new", "offline")
  left = [tmp_path / f"{metrics._PREFIX}{name}" for name in names]
  for folder in left:
    folder.mkdir()
  (left[2] / weights_and_biases.FOLDER).mkdir()
  for folder in (at, left[0], left[2]):
    os.utime(folder, (0, 0))
  another = metrics.MetricWriter(target)
  assert at.is_dir() and [x.is_dir() for x in left] == [False, True, True]
  another.close()

  def gone(*_):
    raise UserError("no answer")

  monkeypatch.setattr(paths.Url, "upload", gone)
  with pytest.raises(UserError):
    running.close()
  assert sorted(tmp_path.iterdir()) == sorted(left[1:])
  paths.remove(target)


def test_every_start_of_a_run_is_recorded(tmp_path, monkeypatch):
  """Catches starts that replace one another, and what nobody can repeat."""
  monkeypatch.setattr("sys.argv", ["mmdcodec", "train", "--x=a b"])
  run = starts.append(tmp_path, 0)
  assert starts.append(tmp_path, 20) == run
  first = starts.read(tmp_path)[0]
  assert first["devices"] == {"cpu": 8} and first["processes"] == 1
  rows = dict(starts.rows(tmp_path))
  assert re.fullmatch(r"2, the last \S+Z at step 20", rows["starts"])
  assert f"jax {jax.__version__}, jaxlib" in rows["versions"]
  assert rows["command"] == "mmdcodec train '--x=a b'"
  (tmp_path / starts.FILE).write_text('{"starts": [{"step": "x"}]}')
  with pytest.warns(match="earlier starts are not known"):
    assert starts.append(tmp_path, 40) != run
  assert len(starts.read(tmp_path)) == 1


def test_the_commit_is_that_of_the_package(tmp_path, monkeypatch):
  """Catches the commit of another repository around an installed package."""

  def git(*words):
    person = ("-c", "user.name=x", "-c", "user.email=x@y")
    return subprocess.run(
      ["git", "-C", root, *person, *words],
      check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip

  root = tmp_path / "checkout"
  module = root / "mmdcodec/__init__.py"
  module.parent.mkdir(parents=True)
  module.touch()
  monkeypatch.setattr("mmdcodec.__file__", str(module))
  monkeypatch.delenv("MMDCODEC_COMMIT", raising=False)
  assert starts._commit() is None
  # As launch scripts set it where they have installed the package.
  monkeypatch.setenv("MMDCODEC_COMMIT", "")
  assert starts._commit() is None
  monkeypatch.setenv("MMDCODEC_COMMIT", "abc with changes")
  assert starts._commit() == "abc with changes"
  git("init", "-q")
  git("add", ".")
  git("commit", "-qm", "x")
  assert starts._commit() == git("rev-parse", "HEAD")
  module.write_text("x = 1")
  assert starts._commit() == git("rev-parse", "HEAD") + " with changes"
  module = root / "venv/mmdcodec/__init__.py"
  module.parent.mkdir(parents=True)
  module.touch()
  monkeypatch.setattr("mmdcodec.__file__", str(module))
  assert starts._commit() == "abc with changes"


INFO = {"kind": "codec", "best_metric": None, "best_mode": "min"}


@pytest.mark.parametrize(
  "name,content,words",
  [
    (workdir.CONFIG_FILE, b"", "config.json.*JSON.*delete it and start"),
    (workdir.CONFIG_FILE, b"\0\0\0", "config.json.*delete it and start"),
    (workdir.CONFIG_FILE, b"[1]", "config.json.*list.*delete it and start"),
    (workdir.CONFIG_FILE, b'{"task": 1}', "names no task"),
    (workdir.RUN_FILE, b"", "run.json.*JSON.*once more"),
    (workdir.RUN_FILE, b"{}", "run.json does not describe.*once more"),
    (workdir.RUN_FILE, {**INFO, "best_mode": []}, "run.json does not"),
    (workdir.RUN_FILE, {**INFO, "parts": 3}, "run.json does not"),
    (workdir.RUN_FILE, {**INFO, "more": 3}, "run.json does not"),
    (workdir.TARGET_FILE, b'{"a', "target.json.*once more"),
  ],
)
def test_damaged_files_of_a_run_are_refused(tmp_path, name, content, words):
  if isinstance(content, dict):
    content = json.dumps(content).encode()
  (tmp_path / name).write_bytes(content)
  read = {
    workdir.CONFIG_FILE: workdir.read_config,
    workdir.RUN_FILE: workdir.read_info,
    workdir.TARGET_FILE: workdir.read_target,
  }
  with pytest.raises(UserError, match=words):
    read[name](tmp_path)


@pytest.mark.parametrize(
  "added_to, same",
  ((0, True), (2, False)),
)
def test_a_new_field_that_is_off_changes_no_condition(added_to, same):
  """Catches runs of earlier versions that cannot be resumed, or change."""
  before = {"semantic": {"kind": "tokens", "size": 5}, "joint": {}}
  now = {"semantic": {**before["semantic"], "added_to": added_to}, "joint": {}}
  assert settings.unchanged(now, before) is same
  other = {**before, "joint": {"size": 3}}
  assert not settings.unchanged(other, before)


def test_a_run_keeps_the_conditions_that_it_was_begun_with(tmp_path):
  """Catches runs that end because their preset has gained a condition."""
  told = []
  joint, chroma = {"kind": "tokens"}, {"kind": "melody"}
  now = {
    "model": {"conditions": {"joint": joint, "chroma": chroma}, "layers": 1}
  }
  config = copy.deepcopy(now)
  settings.as_begun(config, tmp_path, told.append)
  assert config == now and not told
  file = tmp_path / workdir.CONFIG_FILE
  file.write_text(
    json.dumps({"task": "lm", "model": {"conditions": {"joint": joint}}})
  )
  settings.as_begun(config, tmp_path, told.append)
  assert config["model"] == {"conditions": {"joint": joint}, "layers": 1}
  assert len(told) == 1 and "without the conditions chroma" in told[0]
  # What a user adds or takes away is refused later.
  config = {"model": {"conditions": {"joint": joint, "text": {}}}}
  settings.as_begun(config, tmp_path, told.append)
  assert "text" in config["model"]["conditions"] and len(told) == 1
  config = {"model": {"conditions": {}}}
  settings.as_begun(config, tmp_path, told.append)
  assert config == {"model": {"conditions": {}}} and len(told) == 1
