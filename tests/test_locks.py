"""Locks of folders: by the system, and by a file where it has none."""

import errno
import fcntl
import os
import socket
import subprocess

import pytest
from toy_task import Toy, toy_config

from mmdcodec.errors import UserError
from mmdcodec.store import locks
from mmdcodec.train import loop, opening


@pytest.fixture(params=["flock", "file"])
def kind(request, monkeypatch):
  """Both kinds of locks."""
  if request.param == "file":

    def unavailable(*_):
      raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unavailable)
  return request.param


def test_one_at_a_time(kind, tmp_path):
  """Catches a lock that keeps no one out, or is kept for ever."""
  with locks.exclusive(tmp_path):
    assert locks.take(tmp_path) is None
    me = f"another process .{os.getpid()} on {socket.gethostname()}."
    with pytest.raises(UserError, match=f"{me} writes to {tmp_path}"):
      with locks.exclusive(tmp_path):
        pass
    # Refusing must not release it.
    assert locks.take(tmp_path) is None
  with locks.exclusive(tmp_path):
    pass
  with pytest.raises(FileNotFoundError):
    locks.take(tmp_path / "missing")


def test_an_error_in_the_block_releases_it(kind, tmp_path):
  """Catches a folder that stays locked in a session that goes on."""
  with pytest.raises(ZeroDivisionError), locks.exclusive(tmp_path):
    _ = 1 / 0
  locks.take(tmp_path).release()


def dead_process():
  """The number of a process that ran."""
  with subprocess.Popen(["true"]) as process:
    return process.pid


@pytest.mark.parametrize(
  "host, pid, free",
  [
    ("here", dead_process, True),
    # The same number, in a container that was started again.
    ("here", os.getpid, True),
    ("here", os.getppid, False),
    # Of another host, nothing is known.
    ("elsewhere", dead_process, False),
    ("", lambda: "", False),
  ],
)
@pytest.mark.parametrize("kind", ["file"], indirect=True)
def test_the_lock_of_a_dead_process(kind, tmp_path, host, pid, free):
  """Catches a folder that is lost with its process, and a live one robbed."""
  host = socket.gethostname() if host == "here" else host
  (tmp_path / locks.OWNER).write_text(f"{host} {pid()}\n")
  lock = locks.take(tmp_path)
  assert (lock is not None) is free
  if not free:
    with pytest.raises(UserError, match=f"delete {tmp_path / locks.OWNER}"):
      with locks.exclusive(tmp_path):
        pass
    return
  assert locks.take(tmp_path) is None
  lock.release()
  assert os.listdir(tmp_path) == [locks.FILE]


@pytest.mark.parametrize("kind", ["file"], indirect=True)
def test_two_that_find_the_same_dead_owner(kind, tmp_path, monkeypatch):
  """Catches a live lock taken for the dead one that it has replaced."""
  owner, look = tmp_path / locks.OWNER, locks._read
  owner.write_text(f"{socket.gethostname()} {dead_process()}\n")
  # The other one is at it.
  (tmp_path / locks.REMOVING).touch()
  assert locks.take(tmp_path) is None and owner.exists()
  (tmp_path / locks.REMOVING).unlink()
  other = f"{socket.gethostname()} {os.getppid()}\n"

  def look_before_the_other(path):
    found = look(path)
    owner.write_text(other)
    return found

  monkeypatch.setattr(locks, "_read", look_before_the_other)
  assert locks.take(tmp_path) is None
  assert owner.read_text() == other
  assert sorted(os.listdir(tmp_path)) == [locks.FILE, locks.OWNER]


def test_what_a_killed_process_leaves_is_no_lock(tmp_path):
  """Catches a file that locks by being there, where `flock` works."""
  (tmp_path / locks.FILE).write_text(f"{socket.gethostname()} {os.getppid()}")
  locks.take(tmp_path).release()


def test_two_trainings_of_one_workdir(kind, tmp_path, monkeypatch):
  """Catches config, metrics and weights of different runs in one folder."""
  monkeypatch.setattr(opening, "make_task", Toy)
  refused = []

  def try_another(line):
    if "step 3/5" in line:
      before = sorted(p.name for p in tmp_path.iterdir())
      with pytest.raises(UserError, match=f"writes to {tmp_path}"):
        loop.train(toy_config(seed=1), tmp_path, log=str)
      assert before == sorted(p.name for p in tmp_path.iterdir())
      refused.append(line)

  loop.train(toy_config(), tmp_path, log=try_another)
  assert len(refused) == 1
  assert '"seed": 0' in (tmp_path / "config.json").read_text()
  # It ended, so another one may begin.
  loop.train(toy_config(), tmp_path, log=str)
