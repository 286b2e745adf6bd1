"""Files and folders that appear whole or not at all.

Catches: a reader that finds half of a file, a failure that leaves rubbish or
takes what was there, and a folder lost between its two renames.
"""

import os
import pathlib
import subprocess
import sys

import pytest
from coded_streams import make_stream

from mmdcodec import bitstream
from mmdcodec.cli import batch, common
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.store import atomic, locks


def test_a_failed_file_leaves_what_was_there(tmp_path):
  path = tmp_path / "a.json"
  atomic.write_json(path, {"a": 1})
  with pytest.raises(ZeroDivisionError), atomic.file(path) as partial:
    partial.write_text("half")
    assert path.read_text() == '{\n  "a": 1\n}\n'
    raise ZeroDivisionError
  assert path.read_text() == '{\n  "a": 1\n}\n'
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.mmdc", "n" * 255, "\udce9.wav", "ü" * 120])
def test_the_next_run_removes_what_killed_ones_left(tmp_path, name):
  """And only of dead processes, and only of this file."""
  path = tmp_path / name
  beside = tmp_path / "other"
  for target in (path, beside):
    made = target.with_name(f"{atomic._scratch_prefix(target)}{'0' * 16}")
    made.mkdir()
    (made / "new").touch()
    # The system takes the lock of a process that is killed; the file stays.
    locks.take(made, signed=False).release()
  with atomic.file(path) as live:
    live.write_text("1")
    with atomic.file(path) as partial:
      partial.write_text("2")
    assert path.read_text() == "2" and live.exists()
  assert path.read_text() == "1"
  left = [p.name for p in tmp_path.iterdir() if p != path]
  assert len(left) == 1 and left[0].startswith(".other.")


def test_a_folder_of_many_files_is_listed_once(tmp_path, monkeypatch):
  """Catches a time for each file that grows with their number."""
  listed, real = [], os.listdir

  def listdir(folder):
    listed.append(folder)
    return real(folder)

  monkeypatch.setattr(os, "listdir", listdir)
  for name in "abcd":
    atomic.write_text(tmp_path / name, name)
  assert listed.count(tmp_path) == 1
  assert sorted(real(tmp_path)) == list("abcd")


def test_a_folder_is_replaced_whole(tmp_path):
  path = tmp_path / "deep" / "folder"
  with atomic.folder(path) as partial:
    (partial / "old").touch()
    assert not path.exists()
  with pytest.raises(ZeroDivisionError), atomic.folder(path) as partial:
    (partial / "half").touch()
    raise ZeroDivisionError
  assert os.listdir(path) == ["old"]
  with atomic.folder(path) as partial:
    (partial / "new").touch()
  assert os.listdir(path) == ["new"] and os.listdir(path.parent) == ["folder"]


def test_a_replacement_that_was_killed_is_undone(tmp_path, monkeypatch):
  """Catches a folder that is gone, or stays as a copy, after a kill."""
  path, fresh = tmp_path / "folder", tmp_path / "fresh"
  rename = os.rename
  for folder, name in ((path, "old"), (fresh, "new")):
    folder.mkdir()
    (folder / name).touch()

  def killed_after_the_first(source, target):
    rename(source, target)
    raise KeyboardInterrupt

  # As on systems that cannot exchange two folders.
  monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
  with monkeypatch.context() as patch:
    patch.setattr(os, "rename", killed_after_the_first)
    with pytest.raises(KeyboardInterrupt):
      atomic.replace_folder(fresh, path)
  assert not path.exists()
  atomic.restore_folder(path)
  assert os.listdir(path) == ["old"]
  atomic.replace_folder(fresh, path)
  assert os.listdir(path) == ["new"] and os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("options", [[], ["no-exchange"]])
def test_a_kill_at_any_line(tmp_path, options):
  """Catches a folder lost, or hidden leftovers, whenever a kill comes."""
  script = pathlib.Path(__file__).with_name("killed_at_lines.py")
  done = subprocess.run(
    [sys.executable, script, tmp_path / "folder", *options],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) > 20


def test_the_scratch_of_a_live_process_stays(tmp_path):
  with atomic.scratch(tmp_path / "a") as one:
    with atomic.scratch(tmp_path / "a") as other:
      assert one != other and one.exists()
    assert os.listdir(tmp_path) == [one.name]
  assert not os.listdir(tmp_path)


def test_links_to_nothing_are_not_replaced_without_force(tmp_path, capsys):
  coded, link = tmp_path / "a.mmdc", tmp_path / "out" / "link.mmdc"
  bitstream.write(coded, make_stream(codebooks=2))
  link.parent.mkdir()
  link.symlink_to("nowhere")
  copy = lambda source, target: atomic.write_json(target, "copied")
  runs = (
    lambda force: main(
      ["encode", str(coded), str(link), "--codebooks", "1", *force]
    ),
    lambda force: batch.run([(coded, link)], copy, force=bool(force)),
  )
  for code, run in zip((2, 1), runs, strict=True):
    assert run([]) == code
    assert "is a link to nowhere, which" in capsys.readouterr().err
    assert os.readlink(link) == "nowhere"
    assert run(["--force"]) == 0
    assert link.is_file() and not link.is_symlink()
    link.unlink()
    link.symlink_to("nowhere")
  with pytest.raises(UserError, match="link to nowhere"):
    common.check_output(link, force=False)


@pytest.mark.parametrize("force", [False, True])
def test_a_pipe_is_not_replaced_by_a_file(tmp_path, force):
  os.mkfifo(pipe := tmp_path / "a.mmdc")
  with pytest.raises(UserError, match="is a pipe"):
    common.check_output(pipe, force=force)
  assert pipe.is_fifo()
