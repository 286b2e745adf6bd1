"""Processes of a run that do not see the same files."""

import json
import os
import shutil
import subprocess
import sys
import time

import jax
import pytest
from peer_processes import free_port

from mmdcodec.cli import common
from mmdcodec.cli.main import make_parser
from mmdcodec.errors import UserError
from mmdcodec.parallel import agreement, roll
from mmdcodec.store import paths
from mmdcodec.train import same_data


@pytest.fixture
def second(monkeypatch):
  """This process is the second of two; returns what the first one says."""
  said = {}
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  monkeypatch.setattr(agreement, "PATIENCE", 0.1)
  monkeypatch.setattr(roll, "exchange", lambda topic, text: [said[topic], text])
  return said


@pytest.mark.parametrize("token", ["abc", "other"])
def test_a_shared_folder(tmp_path, second, token):
  """Catches a folder of its own that looks like that of process 0."""
  second.update(token=json.dumps([token, ""]), seen="")
  (tmp_path / ".meeting-abc").write_text("abc")
  (tmp_path / ".meeting-other").write_text("")
  if token == "abc":
    agreement.check_shared(tmp_path)
    return
  with pytest.raises(UserError, match=r"of process 1 on \S+ is not the folder"):
    agreement.check_shared(tmp_path)


def test_a_folder_that_process_0_cannot_write(tmp_path, second):
  second.update(token=json.dumps(["abc", "run: No space."]))
  with pytest.raises(UserError, match="process 0 cannot write .* No space"):
    agreement.check_shared(tmp_path)


def test_process_0_makes_the_folder(tmp_path, monkeypatch, second):
  """Catches tokens left behind, and a process 0 that does not say it failed."""
  monkeypatch.setattr(jax, "process_index", lambda: 0)
  folder, said = tmp_path / "a/b", []
  monkeypatch.setattr(
    roll, "exchange", lambda topic, text: [text, said.append(text) or ""]
  )
  agreement.check_shared(folder)
  assert json.loads(said[0])[1] == "" == said[1]
  assert folder.is_dir() and not list(folder.iterdir())
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="process 0 cannot write .*file: File ex"):
    agreement.check_shared(tmp_path / "file")


@pytest.mark.parametrize("where", ["disk", "store"])
def test_files_of_starts_that_were_killed(tmp_path, monkeypatch, second, where):
  """Catches files that stay for ever, and those of a start under way."""
  folder = tmp_path if where == "disk" else paths.of("memory://meetings")
  monkeypatch.setattr(jax, "process_index", lambda: 0)
  monkeypatch.setattr(roll, "exchange", lambda topic, text: [text, ""])
  for name in (".meeting-a", "config.json"):
    (folder / name).write_text("")
  agreement.check_shared(folder)
  assert {x.name for x in folder.iterdir()} == {".meeting-a", "config.json"}
  now = time.time()
  monkeypatch.setattr(agreement.time, "time", lambda: now + 7200)
  agreement.check_shared(folder)
  assert {x.name for x in folder.iterdir()} == {"config.json"}


@pytest.mark.parametrize(
  "theirs, words",
  [
    ({"a": "1", "b": "2"}, None),
    ({"a": "1", "b": "3"}, r"^b is not .* on x has 3, process 1 on \S+ has 2;"),
    ({"a": "1"}, "^b .* on x has no such path, process 1"),
    ({"a": "1", "b": "2", "c": "4"}, r"^c .* on \S+ has no such path;"),
  ],
)
def test_the_same(second, theirs, words):
  """Catches differences on either side."""
  second["same"] = json.dumps(["process 0 on x", theirs])
  if words is None:
    agreement.check_same({"a": "1", "b": "2"})
    return
  with pytest.raises(UserError, match=words):
    agreement.check_same({"a": "1", "b": "2"})


def test_fingerprints(tmp_path):
  """Catches copies that count as different, and other shards that do not."""
  summary = dict(kind="audio", records=1, seconds=1.0, rate=8000, channels=1)
  for name in "ab":
    (tmp_path / name).mkdir()
    (tmp_path / name / "mmdcodec.json").write_text(json.dumps(summary))
    (tmp_path / name / "x-train.array_record-00000-of-00001").write_text("x")
  a, b = tmp_path / "a", tmp_path / "b"
  assert same_data.fingerprint(a) == same_data.fingerprint(b)
  assert len(same_data.fingerprint(a)) == 16
  # Earlier versions wrote no marks of shards.
  (b / "x-train.array_record-00000-of-00001").write_text("y")
  assert same_data.fingerprint(a) != same_data.fingerprint(b)
  (b / "mmdcodec.json").write_text(json.dumps({**summary, "shards": ["1"]}))
  marked = same_data.fingerprint(b)
  (b / "mmdcodec.json").write_text(json.dumps({**summary, "shards": ["2"]}))
  assert same_data.fingerprint(b) != marked
  assert "no such folder" in same_data.fingerprint(tmp_path / "none")


def test_processes_share_one_command(monkeypatch, second):
  """Catches a run that makes one piece of each of several commands."""
  first = []

  def exchange(topic, text, **_):
    first.append(text)
    return [first[0] if topic == "same" else "", text]

  monkeypatch.setattr(roll, "exchange", exchange)

  def run(*words):
    words = ["generate", "--model=music", "--num-processes=2", *words]
    with common.one_voice(make_parser(("generate",)).parse_args(words)):
      pass

  run("calm", "a.wav", "--process-id=0")
  run("calm", "a.wav", "--process-id=1")
  with pytest.raises(UserError, match="argument prompt .*'calm'.* has 'wild'"):
    run("wild", "a.wav", "--process-id=1")
  with pytest.raises(UserError, match="argument seed .* add --num-processes=1"):
    run("calm", "a.wav", "--process-id=1", "--seed=1")


TRAIN = """
import sys
from mmdcodec.cli import main
from mmdcodec.parallel import agreement
agreement.PATIENCE = 1
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("apart", ["workdir", "data"])
def test_two_machines_with_separate_disks(tmp_path, dataset, apart):
  """Catches processes that wait for one another, and a traceback."""
  port, processes = free_port(), []
  for i in range(2):
    folder = tmp_path / str(i)
    folder.mkdir()
    workdir = "run" if apart == "workdir" else tmp_path / "run"
    if apart == "workdir" or i == 0:
      shutil.copytree(dataset, folder / "data")
    processes.append(
      subprocess.Popen(
        [sys.executable, "-c", TRAIN, "train", "--config=codec_small:tiny",
         f"--workdir={workdir}", "--config.data.train=data",
         f"--coordinator=localhost:{port}", "--num-processes=2",
         f"--process-id={i}"],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "4"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )  # fmt: skip
  for process in processes:
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2, said
    assert said.startswith("mmdcodec: ") and said.count("\n") == 1
    what = {
      "workdir": "run of process 1 on ",
      "data": "data is not the same for all processes: process 0 on ",
    }[apart]
    assert what in said and "a URL" in said
