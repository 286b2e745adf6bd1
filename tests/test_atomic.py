"""Files and folders that appear whole or not at all.

Catches: a reader that finds half of a file, a failure that leaves rubbish or
takes what was there, and a folder lost between its two renames.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from mmdcodec.store import atomic


def test_a_failed_file_leaves_what_was_there(tmp_path):
  path = tmp_path / "a.json"
  atomic.write_json(path, {"a": 1})
  with pytest.raises(ZeroDivisionError), atomic.file(path) as partial:
    partial.write_text("half")
    assert path.read_text() == '{\n  "a": 1\n}\n'
    raise ZeroDivisionError
  assert path.read_text() == '{\n  "a": 1\n}\n'
  assert list(tmp_path.iterdir()) == [path]


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
