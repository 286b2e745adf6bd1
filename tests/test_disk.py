"""Full disks: one sentence that names the file, and old files whole.

A limit on the size of files stands for a full disk: every library meets it.
Catches: an error of a library's own that ends in a traceback, a coder that does
not notice, half a file in place of the old one.
"""

import contextlib
import errno
import importlib
import os
import resource

import numpy as np
import pytest
import soundfile

from mmdcodec import bundle
from mmdcodec.audio import files
from mmdcodec.cli import batch
from mmdcodec.cli.main import main
from mmdcodec.data import dataset_folder
from mmdcodec.errors import UserError
from mmdcodec.store import atomic, disk
from mmdcodec.store.checkpoints import Checkpoints

TOO_LARGE = os.strerror(errno.EFBIG)


@contextlib.contextmanager
def limited(size=8 << 10):
  """No file may get larger."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, "words"),
    OSError(errno.EDQUOT, "words"),
    RuntimeError(f"write() failed: {os.strerror(errno.ENOSPC)}; at byte 3"),
    ValueError(f"I/O error: {os.strerror(errno.EDQUOT)} (os error 122)"),
  ],
)
def test_errors_of_a_full_disk_get_its_name(tmp_path, error):
  target = str(tmp_path / "a")
  with pytest.raises(OSError) as caught, disk.named(target):
    try:
      raise error
    except Exception as inner:
      raise TypeError("and then this") from inner
  assert caught.value.filename == target
  sentence = disk.sentence(caught.value)
  assert os.strerror(disk.full(error)) in sentence and target in sentence


def test_other_errors_stay_what_they_are(tmp_path):
  other = FileNotFoundError(errno.ENOENT, "no such file", "x")
  for error in (ValueError("full of words"), other, UserError("words")):
    with pytest.raises(type(error)) as caught, disk.named(tmp_path):
      raise error
    assert caught.value is error and disk.full(error) is None


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_audio(tmp_path, suffix):
  path = tmp_path / f"a{suffix}"
  path.write_bytes(b"old")
  x = np.random.default_rng(0).normal(0, 0.1, (24_000, 1))
  with pytest.raises(UserError, match=TOO_LARGE), limited(2000):
    files.write(path, x.astype(np.float32), rate=24_000)
  assert contents(tmp_path) == {path.name: b"old"}


def test_text_and_bundles(tmp_path):
  path = tmp_path / "model"
  bundle.save(path, {"kind": "x"}, {"params": {"w": np.zeros(8)}})
  old = contents(path)
  with pytest.raises(OSError, match=TOO_LARGE) as caught, limited():
    large = {"params": {"w": np.zeros(8000)}}
    bundle.save(path, {"kind": "x"}, large, force=True)
  assert caught.value.filename == str(path.resolve())
  with pytest.raises(OSError, match=TOO_LARGE) as caught, limited():
    atomic.write_json(path / bundle.CONFIG_FILE, ["long"] * 2000)
  assert caught.value.filename == str(path / bundle.CONFIG_FILE)
  assert contents(tmp_path) == old


def test_records(tmp_path, fails):
  song = tmp_path / "music" / "song.wav"
  song.parent.mkdir()
  x = np.random.default_rng(0).normal(0, 0.1, 24_000)
  soundfile.write(song, x, 24_000)
  with limited():
    error = fails("prepare", song.parent, tmp_path / "set", "--quiet")
  assert TOO_LARGE in error and f"{tmp_path / 'set'}," in error
  assert [*tmp_path.iterdir()] == [song.parent]


def test_shards_and_checkpoints(tmp_path):
  with pytest.raises(OSError, match=TOO_LARGE), disk.named(tmp_path), limited():
    writer = dataset_folder.shard_writer(tmp_path / "shard")
    with contextlib.closing(writer):
      writer.write(bytes(100_000))
  noise = np.random.default_rng(0).normal(size=20_000)
  with pytest.raises(OSError, match=TOO_LARGE), disk.named(tmp_path), limited():
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
      checkpoints.save(1, {"w": noise}, {"index": 0})
      checkpoints.wait()


def test_a_folder_ends_at_the_first_file_that_does_not_fit(tmp_path):
  jobs = [(tmp_path / f"{i}.wav", tmp_path / f"{i}.flac") for i in range(2)]

  def work(source, target):
    with disk.named(target):
      raise RuntimeError(os.strerror(errno.ENOSPC))

  with pytest.raises(OSError) as caught:
    batch.run(jobs, work, force=False)
  assert caught.value.filename == str(jobs[0][1])


def test_the_command_says_it_in_one_line(monkeypatch, fails):
  info = importlib.import_module("mmdcodec.cli.info")
  full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  def run(args):
    raise RuntimeError("saving failed") from full

  monkeypatch.setattr(info, "run", run)
  assert os.strerror(errno.ENOSPC) in fails("info", "x")
  monkeypatch.setattr(info, "run", lambda args: print("words"))
  with contextlib.suppress(OSError), open("/dev/full", "w") as out:
    monkeypatch.setattr("sys.stdout", out)
    assert main(["info", "x"]) == 2
