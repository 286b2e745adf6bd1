"""Data sets, bundles and files in an object store (fsspec's `memory://`).

`test_object_store.py` has real servers, and trainings, which need one.
"""

import concurrent.futures
import io
import os
import pathlib
import secrets
import threading
import time

import jax
import numpy as np
import pytest
from extension.loudness import Loudness
from orbax.checkpoint._src.serialization import tensorstore_utils
from tunes import prepare_tunes

from mmdcodec import bundle
from mmdcodec.audio import files
from mmdcodec.cli import main as cli
from mmdcodec.data import record_encoder, records, token_shards, tokenization
from mmdcodec.data.record_source import Source, describe
from mmdcodec.data.token_records import TokenSource
from mmdcodec.errors import Unreachable, UserError
from mmdcodec.store import (
  atomic,
  cached,
  inputs,
  locks,
  orbax_stores,
  paths,
  remote_locks,
  tensors,
  uploads,
)
from mmdcodec.store.urls import Url


@pytest.fixture
def url(tmp_path, monkeypatch):
  """A folder of its own in the store, and a cache of its own."""
  monkeypatch.setenv("MMDCODEC_CACHE", str(tmp_path / "cache"))
  made = paths.of(f"memory://bucket/{secrets.token_hex(4)}")
  yield made
  paths.remove(made)


class Dies(Loudness):
  """A tokenizer that stops after some batches."""

  left, kind, frame_rate = 99, "loud", 40.0

  def encode(self, x, rate=None, *, lengths=None):
    """As loudness, or not at all."""
    Dies.left -= 1
    if Dies.left < 0:
      raise RuntimeError("killed")
    return super().encode(x, rate, lengths=lengths)


@pytest.fixture
def tokenizer(monkeypatch):
  """One whose records are encoded one by one, in shards of two."""
  monkeypatch.setattr(token_shards, "_LEAST", 2)
  monkeypatch.setattr(record_encoder, "_AT_A_TIME", 1)
  devices = jax.local_devices()[:1]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  monkeypatch.setattr(Dies, "left", 99)
  return Dies({"model": {"step": 4.0}}, {}, {})


def same_records(one, other):
  assert len(one) == len(other) > 0
  for i in range(len(one)):
    for name, value in one[i].items():
      np.testing.assert_array_equal(value, other[i][name])


def test_prepare(url, dataset, tmp_path):
  """The same records, from the same shards, and --force replaces them."""
  out = prepare_tunes(tmp_path / "music", url / "tunes")
  same_records(Source(out), Source(dataset))
  assert Source(str(out)).fingerprint() == Source(dataset).fingerprint()
  assert not [*out.glob(".*")]
  with pytest.raises(UserError, match="finished data set already"):
    records.prepare(tmp_path / "music", out, progress=False)
  records.prepare(
    tmp_path / "music", out, seconds=4, progress=False, force=True
  )
  assert describe(out)["record_seconds"] == 4


def test_an_interrupted_upload(url, dataset, tmp_path, monkeypatch):
  """It is no data set, and the same command makes it one."""
  out, sent = url / "tunes", []
  upload = paths.Url.upload

  def die(self, file):
    sent.append(self.name)
    if len(sent) == 3:
      raise RuntimeError("killed")
    upload(self, file)

  monkeypatch.setattr(paths.Url, "upload", die)
  with pytest.raises(RuntimeError, match="killed"):
    prepare_tunes(tmp_path / "music", out)
  monkeypatch.setattr(paths.Url, "upload", upload)
  assert uploads.is_unfinished(out)
  with pytest.raises(UserError, match=f"{out} is not complete: its upload was"):
    Source(out)
  prepare_tunes(tmp_path / "music", out)
  same_records(Source(out), Source(dataset))


def test_a_store_that_refuses(url, tmp_path, monkeypatch, fails):
  """It is found out before the work, not at the end of it."""

  def refuse(self, place, data, **kwargs):
    raise PermissionError("forbidden")

  music = tmp_path / "music"
  prepare_tunes(music, url / "a")
  monkeypatch.setattr(type(url.system), "pipe_file", refuse)
  monkeypatch.setattr(records, "build", None)
  for words in (
    ("prepare", music, url / "b"),
    ("evaluate", "--model", "m", "--audio", music, "--out", url / "b"),
    ("encode", music / "tune0.wav", url / "b.mmdc", "--model", "m"),
  ):
    assert "cannot be written (forbidden); check its name" in fails(*words)


def test_a_missing_shard(url, tmp_path):
  """Is named, as on a disk."""
  out = prepare_tunes(tmp_path / "music", url / "tunes")
  (shard,) = out.glob("*.array_record*")
  shard.rename(shard.with_name("x"))
  with pytest.raises(UserError, match=f"{out}: has no shards"):
    Source(out)
  (out / "x").rename(shard)
  data = shard.read_bytes()
  shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
  with pytest.raises(UserError, match="is not the one that was written"):
    Source(out)


@pytest.mark.parametrize("several", (False, True))
def test_tokenize_resumes(url, dataset, tmp_path, tokenizer, several):
  """The codes are those made on a disk, also after a kill."""
  run = tokenization.tokenize_all if several else tokenization.tokenize
  given = [tokenizer] if several else tokenizer
  local, out = tmp_path / "tokens", url / "tokens"
  run(dataset, local, given, batch=1)
  Dies.left = 2
  with pytest.raises(RuntimeError, match="killed"):
    run(dataset, out, given, batch=1)
  assert not out.exists()
  unfinished = url / ".tokens.unfinished"
  assert len([*unfinished.glob("**/shard-*")]) == 1
  Dies.left = 99
  run(dataset, out, given, batch=1)
  assert Dies.left > 99 - len(Source(dataset)), "all was encoded again"
  assert not unfinished.files()
  name = tokenizer.kind if several else "."
  same_records(TokenSource(out / name), TokenSource(local / name))
  assert [*paths.sizes(out)] and describe(out / name) == describe(local / name)


def test_info_of_urls(url, model, tmp_path, capsys):
  """`mmdcodec info` and `export` know them."""
  out = prepare_tunes(tmp_path / "music", url / "tunes")
  assert cli.main(["info", str(out)]) == 0
  assert str(out) in capsys.readouterr().out


def test_audio(url):
  """Audio files are written and read."""
  x = 0.1 * np.sin(np.arange(8000) / 7)[:, None].astype(np.float32)
  files.write(url / "a.flac", x, rate=8000)
  y, rate = files.read(str(url / "a.flac"))
  assert rate == 8000
  np.testing.assert_allclose(x, y, atol=1e-4)


def test_tensors(url):
  """Weights are read from a copy, which is made once."""
  with atomic.folder(url / "m") as made:
    tensors.write(made / "a.safetensors", {"w": np.arange(5.0)})
  for _ in range(2):
    found = tensors.read(url / "m/a.safetensors", "again")
    np.testing.assert_array_equal(found["w"], np.arange(5.0))
  folders = [p for p in cached._folder().iterdir() if len(p.name) == 32]
  assert len(folders) == 1


def test_an_interrupted_upload_of_a_model(url, tmp_path):
  """Catches weights without their config that count as a damaged bundle."""
  uploads.folder(tmp_path, url)
  (url / uploads.MARK).write_text("")
  (url / bundle.WEIGHTS_FILE).write_bytes(b"weights")
  with pytest.raises(UserError, match=f"{url} is not complete: its upload was"):
    bundle.read(url)


def test_a_store_that_fails_while_an_object_is_read(url, monkeypatch):
  """Catches a traceback in the place of a sentence."""
  (url / "a.json").write_text('{"a": 1}')
  assert inputs.read_json(url / "a.json") == {"a": 1}
  with inputs.open_file(url / "a.json") as file:
    file.seek(2)
    assert (file.tell(), file.read(1)) == (2, b"a")

  class Broken(io.BytesIO):
    def read(self, size=-1):
      raise RuntimeError("503 backend error")

    readinto = read

  monkeypatch.setattr(
    type(url.system), "_open", lambda self, *args, **kwargs: Broken()
  )
  with pytest.raises(Unreachable, match="cannot be read .503 backend error"):
    inputs.read_json(url / "a.json")
  with pytest.raises(Unreachable), inputs.open_file(url / "a.json") as file:
    file.read()


def test_an_object_is_read_to_its_end_at_once(url, monkeypatch):
  """Catches a request for every few kilobytes."""
  asked = []

  class Counted(io.BytesIO):
    def read(self, size=-1):
      asked.append(size)
      return super().read(size)

    def readinto(self, buffer):
      asked.append(len(buffer))
      return super().readinto(buffer)

  content = bytes(1 << 20)
  (url / "a").write_bytes(content)
  monkeypatch.setattr(
    type(url.system), "_open", lambda self, *args, **kwargs: Counted(content)
  )
  with inputs.open_file(url / "a") as file:
    assert file.read() == content
  # The first is the look whether it is a pointer of git-lfs.
  assert len(asked) == 2


def test_a_failure_leaves_the_old_file(url):
  """A file is replaced as a whole, or not at all."""
  atomic.write_text(url / "a", "old")
  with pytest.raises(RuntimeError), atomic.file(url / "a") as partial:
    partial.write_text("half")
    raise RuntimeError
  assert (url / "a").read_text() == "old"


def test_replacing_a_folder(url, tmp_path, monkeypatch):
  """What makes it a bundle goes first and comes last."""
  order = []
  for call in ("upload", "unlink"):
    before = getattr(paths.Url, call)

    def note(self, *args, _call=call, _before=before, **kwargs):
      order.append((_call, self.name))
      return _before(self, *args, **kwargs)

    monkeypatch.setattr(paths.Url, call, note)
  for names in (("config.json", "a", "b"), ("a", "c", "config.json")):
    order.clear()
    with atomic.folder(url) as made:
      for name in names:
        (made / name).write_text(name)
  assert order[0] == ("unlink", "config.json")
  assert order[-2:] == [("upload", "config.json"), ("unlink", uploads.MARK)]
  assert [*url.files()] == ["a", "c", "config.json"]


def test_many_that_need_one_object(url, monkeypatch):
  """Catches a download for each process of a machine."""
  (url / "a").write_bytes(b"content")
  count, downloads = 4, []
  asked = threading.Barrier(count)
  missing, download = cached._missing, Url.download

  def wait(*of):
    found = missing(*of)
    asked.wait(60)
    return found

  def note(self, target):
    downloads.append(self)
    download(self, target)

  monkeypatch.setattr(cached, "_missing", wait)
  monkeypatch.setattr(Url, "download", note)
  with concurrent.futures.ThreadPoolExecutor(count) as pool:
    copies = list(pool.map(cached.local, [url / "a"] * count))
  assert {copy.read_bytes() for copy in copies} == {b"content"}
  assert len(downloads) == 1


def test_the_cache_is_bounded(url, tmp_path, monkeypatch):
  """The oldest copies go, but not those that a process uses."""
  for name in "abcd":
    (url / name).write_bytes(bytes(1000))
  monkeypatch.setenv("MMDCODEC_CACHE_GB", "3e-6")
  first = [cached.local(url / name) for name in "abc"]
  with pytest.raises(UserError, match="raise MMDCODEC_CACHE_GB"):
    cached.local(url / "d")
  # As if this process had ended: its list is no longer locked.
  cached._users_in.cache_clear()
  now = time.time()
  for age, copy in enumerate((first[1], first[0], first[2])):
    os.utime(copy.parent, (now - 90 + age, now - 90 + age))
  assert cached.local(url / "d").read_bytes() == bytes(1000)
  assert [copy.exists() for copy in first] == [True, False, True]
  monkeypatch.setenv("MMDCODEC_CACHE_GB", "much")
  with pytest.raises(UserError, match="expected gigabytes"):
    cached.local(url / "b")


def test_a_copy_follows_its_object(url):
  """Catches a copy of what an object was before."""
  (url / "a").write_text("old")
  assert cached.local(url / "a").read_text() == "old"
  (url / "a").write_text("newer")
  assert cached.local(url / "a").read_text() == "newer"
  assert cached.local(pathlib.Path("a")) == pathlib.Path("a")


def test_locks(url, monkeypatch):
  """One at a time; of a dead or silent owner, the next one has it."""
  monkeypatch.setattr(remote_locks, "BEAT", 0.02)
  monkeypatch.setattr(remote_locks, "PATIENCE", 0.3)
  monkeypatch.setattr(remote_locks.time, "sleep", lambda seconds: None)
  held = locks.take(url)
  assert locks.take(url) is None
  assert f"({os.getpid()} on " in locks.refusal(url)
  held.release()
  place = url / remote_locks.FILE
  assert not place.exists()
  # A process of this machine that has ended, and one of another machine.
  dead = remote_locks.Owner(remote_locks._host(), 2**22 + 1, "t", 7)
  for owner in (dead, dead._replace(host="elsewhere/0")):
    remote_locks._write(place, owner)
    held = locks.take(url)
    assert held is not None
    held.release()


def test_a_dead_owners_lock_is_taken_over_once(url, monkeypatch):
  """Catches a process that deletes the lock of one that was faster."""
  place = url / remote_locks.FILE
  place.write_bytes(b"elsewhere 1 dead 7\n")

  def be_late(place, before):
    assert before.token == "dead"
    place.write_bytes(b"third 2 faster 0\n")
    return True

  monkeypatch.setattr(remote_locks, "_is_silent", be_late)
  assert remote_locks.take(url) is None
  assert remote_locks.read(place).token == "faster"


def test_a_live_owner_elsewhere(url, monkeypatch):
  """Its signs of life keep others out."""
  monkeypatch.setattr(remote_locks, "PATIENCE", 30.0)
  place = url / remote_locks.FILE
  owner = remote_locks.Owner("elsewhere/0", 1, "t", 0)
  remote_locks._write(place, owner)
  beats, this = iter(range(1, 99)), threading.current_thread()
  real = time.sleep

  def sleep(seconds):
    # Threads that other tests have left sleep as well.
    if threading.current_thread() is not this:
      return real(seconds)
    remote_locks._write(place, owner._replace(beat=next(beats)))

  monkeypatch.setattr(remote_locks.time, "sleep", sleep)
  assert locks.take(url) is None


def test_a_lock_in_a_store_that_is_gone(url, monkeypatch):
  """To release it must not hide why the run ended."""
  held = locks.take(url)

  def gone(self, *args, **kwargs):
    raise ConnectionError("gone")

  monkeypatch.setattr(type(url.system), "cat_file", gone)
  held.release()


def test_a_lost_lock_is_noticed(url, monkeypatch, capfd):
  """Whoever was held up must not go on to write."""
  monkeypatch.setattr(remote_locks, "BEAT", 0.02)
  held = locks.take(url)
  other = remote_locks.Owner("elsewhere/0", 1, "t", 0)
  remote_locks._write(url / remote_locks.FILE, other)
  held._thread.join(5)
  assert "was taken over by elsewhere/0" in capfd.readouterr().err
  held.release()
  assert remote_locks.read(url / remote_locks.FILE) == other


def test_orbax_asks_for_s3(monkeypatch):
  """What is asked of TensorStore, and an Orbax that is built differently."""
  monkeypatch.setenv("AWS_ENDPOINT_URL", "http://here:1")
  for name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
    monkeypatch.delenv(name, raising=False)
  build = tensorstore_utils.build_kvstore_tspec
  monkeypatch.setattr(tensorstore_utils, "build_kvstore_tspec", build)
  orbax_stores._teach_s3.__wrapped__()
  base = {"driver": "s3", "bucket": "b", "path": "run/5/state"}
  made = tensorstore_utils.build_kvstore_tspec("s3://b/run/5/state", "w")
  assert made["base"] == base | {"endpoint": "http://here:1"}
  local = tensorstore_utils.build_kvstore_tspec("/run/5/state", "w")
  assert local == build("/run/5/state", "w")
  monkeypatch.delattr(tensorstore_utils, "build_kvstore_tspec")
  with pytest.raises(UserError, match="cannot write to s3://"):
    orbax_stores._teach_s3.__wrapped__()
