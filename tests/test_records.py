"""Preparing data sets: what is lost, altered, half done, or ends the run.

Must catch: samples lost or doubled at cuts and at the end of a file; audio
changed where it need not be; one bad file that ends a run, passes for good, or
leaves its first half behind; a long file held in memory; results that depend
on the number of workers; an interrupted run that looks finished; a finished
data set overwritten.
"""

import argparse
import errno
import inspect
import io
import json
import os
import struct
import threading
import tracemalloc

import numpy as np
import pytest
import soundfile

from mmdcodec.audio import files
from mmdcodec.cli import main as cli
from mmdcodec.cli import prepare as prepare_verb
from mmdcodec.data import file_pieces, record_writer, records
from mmdcodec.data.record_source import Source, describe
from mmdcodec.errors import UserError

RATE = 8000


def noise(seconds, *, rate=RATE, channels=1, seed=0):
  rng = np.random.default_rng(seed)
  shape = (round(seconds * rate), channels)
  return rng.integers(-9000, 9000, shape).astype(np.int16)


def save(path, x, rate=RATE, **kwargs):
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, x, rate, **kwargs)
  return path


def prepare(folder, out, **kwargs):
  kwargs = {"rate": RATE, "seconds": 2.0, "progress": False} | kwargs
  return records.prepare(folder, out, **kwargs)


def decoded(record):
  x, _ = soundfile.read(
    io.BytesIO(record["audio"]), dtype="int16", always_2d=True
  )
  assert len(x) == record["samples"]
  return x


def by_path(out):
  found = {}
  source = Source(out)
  for i in range(len(source)):
    found.setdefault(source[i]["path"], []).append(source[i])
  return found


@pytest.mark.parametrize(
  "seconds, lengths",
  [(0.001, [8]), (0.9, [7200]), (2.99, [23920]), (3.0, [16000, 8000])]
  + [(4.0, [16000] * 2), (6.99, [16000, 16000, 23920])],
)
def test_rest_of_a_file_is_kept(tmp_path, seconds, lengths):
  x = noise(seconds)
  path = save(tmp_path / "a.wav", x)
  pieces = list(file_pieces.pieces(path, rate=RATE, channels=1, seconds=2.0))
  assert [len(p) for p in pieces] == lengths
  np.testing.assert_array_equal(np.concatenate(pieces), x)


def test_16_bit_audio_of_the_same_rate_is_kept_bit_for_bit(tmp_path):
  full = np.array([[-32768], [32767], [0], [-1]] * 9000, np.int16)
  sources = {"b/x.wav": noise(33.3), "a.flac": full, "ä ö.wav": noise(5)}
  # A name that is no UTF-8, as in old collections.
  save(tmp_path / "in" / "z.wav", noise(4, seed=1))
  (tmp_path / "in" / "z.wav").rename(tmp_path / "in" / "z\udcff.wav")
  for name, x in sources.items():
    save(tmp_path / "in" / name, x)
  report = prepare(tmp_path / "in", tmp_path / "out", seconds=10.0)
  found = by_path(tmp_path / "out")
  np.testing.assert_array_equal(
    decoded(found.pop("z?.wav")[0]), noise(4, seed=1)
  )
  assert list(found) == sorted(sources)
  for name, x in sources.items():
    np.testing.assert_array_equal(
      np.concatenate([decoded(r) for r in found[name]]), x
    )
    starts = np.cumsum([0] + [r["samples"] for r in found[name]])[:-1]
    np.testing.assert_allclose(
      [r["position"] for r in found[name]], starts / RATE
    )
  assert report.records == sum(map(len, found.values())) + 1
  assert report.seconds == pytest.approx(
    4 + sum(len(x) for x in sources.values()) / RATE
  )


def test_stream_equals_reading_and_resampling_the_whole_file(tmp_path):
  x = noise(70, rate=22050, channels=2) // 2
  path = save(tmp_path / "in" / "a.wav", x, 22050)
  for channels in (1, 2):
    out = tmp_path / f"out{channels}"
    prepare(tmp_path / "in", out, channels=channels, rate=24000)
    got = np.concatenate([decoded(r) for r in by_path(out)["a.wav"]])
    whole, _ = files.read(path, rate=24000, channels=channels)
    assert got.shape == whole.shape == (70 * 24000, channels)
    assert np.abs(got - whole * 32768).max() <= 1


def test_tfds_reads_it_without_tensorflow(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  # Several shards, of which none may be lost or change the order.
  monkeypatch.setattr(records, "_SHARD", 50_000)
  x = noise(20)
  save(tmp_path / "in" / "a.wav", x)
  (tmp_path / "in" / "a.txt").write_text("Ein Lied für Gitarre")
  prepare(tmp_path / "in", tmp_path / "out")
  assert len(list((tmp_path / "out").glob("*array_record*"))) > 2
  builder = tfds.builder_from_directory(tmp_path / "out")
  source = builder.as_data_source("train")
  assert len(source) == builder.info.splits["train"].num_examples == 10
  got = np.concatenate([decoded(record) for record in source])
  np.testing.assert_array_equal(got, x)
  record = source[3]
  assert record["caption"].decode() == "Ein Lied für Gitarre"
  assert (record["rate"], record["channels"]) == (RATE, 1)
  assert record["position"] == 6.0 and record["path"] == b"a.wav"


def wav_header(*, channels=1, rate=RATE, bits=16, code=1, data=b"\0" * 999):
  form = struct.pack(
    "<HHIIHH", code, channels, rate, 0, 2 * channels % 65536, bits
  )
  body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
  body += b"data" + struct.pack("<I", len(data)) + data
  return b"RIFF" + struct.pack("<I", len(body)) + body


def damage(folder):
  """Makes one file of each kind; returns words of the reason for each."""
  x = noise(5)
  whole = {}
  for suffix in ("wav", "flac", "mp3", "ogg", "aiff"):
    whole[suffix] = save(folder / f"good.{suffix}", x).read_bytes()
  bad = np.zeros((30000, 1), np.float32)
  bad[20000] = np.nan
  infinite = np.where(np.isnan(bad), np.inf, bad)
  save(folder / "nan.wav", bad, subtype="FLOAT")
  save(folder / "infinite.wav", infinite, subtype="FLOAT")
  save(folder / "integers.wav", x.astype(np.float32), subtype="FLOAT")
  contents = {
    "empty.wav": b"",
    "text.mp3": b"This is not audio. " * 100,
    "picture.flac": b"\x89PNG\r\n\x1a\n" + bytes(500),
    "zeros.ogg": bytes(4000),
    "header_only.flac": whole["flac"][:42],
    "no_samples.wav": wav_header(data=b""),
    "no_channels.wav": wav_header(channels=0),
    "many_channels.wav": wav_header(channels=40000),
    "no_rate.wav": wav_header(rate=0),
    "slow.wav": wav_header(rate=3),
    "fast.wav": wav_header(rate=2_000_000_000),
    "bits.wav": wav_header(bits=77),
    "coding.wav": wav_header(code=0x1234),
    "half.wav": whole["wav"][: len(whole["wav"]) // 2],
    "half.flac": whole["flac"][: len(whole["flac"]) // 2],
    "half.mp3": whole["mp3"][: len(whole["mp3"]) // 2],
    "half.ogg": whole["ogg"][: len(whole["ogg"]) // 2],
    "half.aiff": whole["aiff"][: len(whole["aiff"]) // 2],
    "cut_at_44.wav": whole["wav"][:40],
    # Announces 2^36 - 1 samples: no memory may be asked for by that number.
    "promise.flac": whole["flac"][:21]
    + bytes([whole["flac"][21] | 0x0F])
    + b"\xff" * 4
    + whole["flac"][26:],
    "hole.flac": whole["flac"][:20000] + bytes(9000) + whole["flac"][29000:],
  }
  for name, content in contents.items():
    (folder / name).write_bytes(content)
  (folder / "folder.wav").mkdir()
  (folder / "nowhere.wav").symlink_to(folder / "does not exist")
  os.mkfifo(folder / "pipe.wav")
  reasons = {name: "" for name in contents} | {
    "empty.wav": "empty",
    "half.wav": "truncated",
    "half.flac": "truncated",
    "half.mp3": "truncated",
    "half.ogg": "truncated",
    "half.aiff": "truncated",
    "promise.flac": "truncated",
    "slow.wav": "3 Hz",
    "nan.wav": "NaN",
    "infinite.wav": "infinite",
    "integers.wav": "samples reach",
    "folder.wav": "folder",
    "nowhere.wav": "broken link",
    "pipe.wav": "is a pipe",
  }
  if os.getuid():  # root may read everything
    (folder / "locked.wav").write_bytes(whole["wav"])
    (folder / "locked.wav").chmod(0)
    reasons["locked.wav"] = "denied"
  return reasons


def test_damaged_files_are_skipped_and_listed_with_their_reason(tmp_path):
  reasons = damage(tmp_path / "in")
  save(tmp_path / "in" / "silence.wav", np.zeros((RATE * 3, 1), np.int16))
  report = prepare(tmp_path / "in", tmp_path / "out", workers=3)
  skipped = dict(report.skipped)
  assert len(reasons) >= 25 and len(skipped) == len(report.skipped)
  assert skipped.keys() == reasons.keys()
  for name, words in reasons.items():
    assert skipped[name] and words in skipped[name], (name, skipped[name])
    assert str(tmp_path) not in skipped[name]  # the name is said already
  # What is good is there, whole.
  found = by_path(tmp_path / "out")
  good = {"good.wav", "good.flac", "good.mp3", "good.ogg", "good.aiff"}
  assert found.keys() == good | {"silence.wav"}
  np.testing.assert_array_equal(
    np.concatenate([decoded(r) for r in found["good.wav"]]), noise(5)
  )
  # The list stays with the data set.
  lines = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
  listed = {row["path"]: row["reason"] for row in map(json.loads, lines)}
  assert listed == skipped
  assert describe(tmp_path / "out")["skipped"] == len(skipped)
  assert f"skipped   {len(skipped)}" in str(report)


def test_a_file_damaged_half_way_contributes_nothing(tmp_path):
  data = save(tmp_path / "in" / "a.flac", noise(60)).read_bytes()
  (tmp_path / "in" / "a.flac").write_bytes(data[: len(data) * 3 // 4])
  save(tmp_path / "in" / "b.wav", noise(3))
  pieces = file_pieces.pieces(
    tmp_path / "in" / "a.flac", rate=RATE, channels=1, seconds=2.0
  )
  assert len(next(pieces)) == 2 * RATE  # it does begin well
  report = prepare(tmp_path / "in", tmp_path / "out")
  assert by_path(tmp_path / "out").keys() == {"b.wav"}
  assert (report.files, report.records, report.seconds) == (1, 2, 3.0)


def test_nothing_readable_leaves_nothing(tmp_path):
  (tmp_path / "in").mkdir()
  with pytest.raises(UserError, match="no audio files"):
    prepare(tmp_path / "in", tmp_path / "out")
  (tmp_path / "in" / "a.wav").write_bytes(b"")
  with pytest.raises(UserError, match="a.wav: is empty"):
    prepare(tmp_path / "in", tmp_path / "out")
  with pytest.raises(UserError, match="rate must be from 1000 to 655350"):
    prepare(tmp_path / "in", tmp_path / "out", rate=655_351)  # of FLAC
  assert os.listdir(tmp_path) == ["in"]


def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path):
  minute = noise(60)
  (tmp_path / "in").mkdir()
  with soundfile.SoundFile(tmp_path / "in" / "a.wav", "w", RATE, 1) as sound:
    for _ in range(30):
      sound.write(minute)
  tracemalloc.start()
  try:
    report = prepare(tmp_path / "in", tmp_path / "out", workers=1)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert report.seconds == 1800
  # 29 MB of samples as they are, 58 MB as floats, 27 MB as FLAC.
  assert peak < 16e6, f"{peak / 1e6:.1f} MB"


def test_the_number_of_workers_changes_nothing(tmp_path):
  damage(tmp_path / "in")
  for i in range(9):
    save(tmp_path / "in" / f"{i}.wav", noise(1 + (5 * i) % 7, seed=i))
  reports, contents = [], []
  for workers in (1, 4):
    out = tmp_path / f"out{workers}"
    reports.append(prepare(tmp_path / "in", out, workers=workers))
    names = [p.name for p in out.glob("*array_record*")]
    contents.append({p: (out / p).read_bytes() for p in names})
  assert contents[0] == contents[1]
  assert reports[0].skipped == reports[1].skipped


def test_workers_work_at_the_same_time(tmp_path, monkeypatch):
  for name in ("a.wav", "b.wav"):
    save(tmp_path / "in" / name, noise(1))
  pieces, both = file_pieces.pieces, threading.Barrier(2, timeout=20)

  def waits_for_the_other(*args, **kwargs):
    both.wait()
    yield from pieces(*args, **kwargs)

  monkeypatch.setattr(file_pieces, "pieces", waits_for_the_other)
  report = prepare(tmp_path / "in", tmp_path / "out", workers=2)
  assert report.files == 2 and not report.skipped


def test_an_interrupted_run_leaves_nothing_that_looks_finished(
  tmp_path, monkeypatch
):
  save(tmp_path / "in" / "a.wav", noise(3))
  save(tmp_path / "in" / "b.wav", noise(3))
  out, seen = tmp_path / "out", []
  pieces = file_pieces.pieces

  def interrupted(path, **kwargs):
    seen.append(sorted(os.listdir(tmp_path)))
    if path.name == "b.wav":
      raise KeyboardInterrupt
    return pieces(path, **kwargs)

  monkeypatch.setattr(file_pieces, "pieces", interrupted)
  # One that was killed before could not clean up after itself.
  (tmp_path / ".out.unfinished-killed" / "tfds").mkdir(parents=True)
  with pytest.raises(KeyboardInterrupt):
    prepare(tmp_path / "in", out, workers=1)
  assert os.listdir(tmp_path) == ["in"]
  assert "out" not in seen[-1] and len(seen[-1]) == 2
  monkeypatch.undo()
  assert prepare(tmp_path / "in", out).files == 2


def test_a_full_disk_is_not_blamed_on_the_audio(tmp_path, monkeypatch):
  save(tmp_path / "in" / "a.wav", noise(3))

  def full(x, rate):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(record_writer, "flac", full)
  with pytest.raises(OSError, match="No space left"):
    prepare(tmp_path / "in", tmp_path / "out")
  assert os.listdir(tmp_path) == ["in"]


def test_nothing_is_overwritten_unless_told_to(tmp_path):
  save(tmp_path / "in" / "a.wav", noise(3))
  out = tmp_path / "out"
  prepare(tmp_path / "in", out)
  save(tmp_path / "in" / "b.wav", noise(3))
  with pytest.raises(UserError, match="--force"):
    prepare(tmp_path / "in", out)
  assert describe(out)["files"] == 1
  prepare(tmp_path / "in", out, force=True)
  assert describe(out)["files"] == 2
  # Through a link, as to a larger disk: the link stays, twice.
  link = tmp_path / "link"
  link.symlink_to(out)
  for _ in range(2):
    prepare(tmp_path / "in", link, force=True)
    assert link.is_symlink() and describe(link)["files"] == 2
  assert sorted(os.listdir(tmp_path)) == ["in", "link", "out"]
  # Whatever is no data set is never removed.
  with pytest.raises(UserError, match="not a data set"):
    prepare(tmp_path / "in", tmp_path / "in", force=True)
  assert len(os.listdir(tmp_path / "in")) == 2


def test_audio_that_is_not_read_is_listed(tmp_path):
  """Half a folder of .m4a must not become half a data set unsaid."""
  folder = tmp_path / "in"
  save(folder / "a.wav", noise(3))
  save(tmp_path / "other" / "x.wav", noise(3))
  for name in ("b.M4A", "sub/c.wv", "sub/d.txt", "sub/.e.m4a"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
  (folder / "linked").symlink_to(tmp_path / "other")
  (folder / "sub" / "loop").symlink_to(folder)
  report = prepare(folder, tmp_path / "out")
  assert report.skipped == [
    ("b.M4A", "m4a is not supported; convert it to flac"),
    ("sub/c.wv", "wv is not supported; convert it to flac"),
  ]
  assert by_path(tmp_path / "out").keys() == {"a.wav", "linked/x.wav"}
  (folder / "a.wav").unlink()
  (folder / "linked").unlink()
  with pytest.raises(UserError, match="b.M4A: m4a is not supported"):
    prepare(folder, tmp_path / "out2")


def test_an_mp3_of_unknown_length_is_kept_whole(tmp_path):
  path = tmp_path / "in" / "a.mp3"
  x = noise(30, rate=44100) // 2
  x[: len(x) // 2] = 0
  save(path, x, 44100, bitrate_mode="VARIABLE", format="MP3")
  # Without the first frame, which holds Xing's tag, the length is a guess.
  data = path.read_bytes()
  path.write_bytes(data[data.index(b"\xff\xfb", 4) :])
  report = prepare(tmp_path / "in", tmp_path / "out", rate=44100)
  assert report.seconds == pytest.approx(30, abs=0.06)
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(UserError, match="truncated"):
    prepare(tmp_path / "in", tmp_path / "out2")


def test_files_that_wait_share_the_memory(tmp_path, monkeypatch):
  sizes, spooled = [], record_writer.tempfile.SpooledTemporaryFile

  def spool(size, **kwargs):
    sizes.append(size)
    return spooled(size, **kwargs)

  monkeypatch.setattr(record_writer.tempfile, "SpooledTemporaryFile", spool)
  for i in range(40):
    save(tmp_path / "in" / f"{i}.wav", noise(1))
  prepare(tmp_path / "in", tmp_path / "out", workers=8)
  # Files ahead of the one that is written: four for each worker.
  assert len(sizes) == 40 and 4 * 8 * max(sizes) <= 32 << 20


def test_a_replacement_killed_half_way_is_undone(tmp_path, monkeypatch):
  save(tmp_path / "in" / "a.wav", noise(3))
  out, rename = tmp_path / "out", os.rename
  prepare(tmp_path / "in", out)
  before = sorted(os.listdir(out))

  def fails(source, target):
    if target == out and "tfds" in str(source):
      raise OSError(errno.EIO, "no luck")
    rename(source, target)

  monkeypatch.setattr(records.os, "rename", fails)
  monkeypatch.setattr(records.atomic, "_exchange", lambda one, other: False)
  with pytest.raises(OSError, match="no luck"):
    prepare(tmp_path / "in", out, force=True)
  monkeypatch.undo()
  assert sorted(os.listdir(out)) == before
  # Killed: nothing could be done then, the next run does it.
  out.rename(tmp_path / ".out.replaced")
  with pytest.raises(UserError, match="--force"):
    prepare(tmp_path / "in", out)
  assert sorted(os.listdir(out)) == before
  prepare(tmp_path / "in", out, force=True)
  assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_the_command(tmp_path, capsys):
  save(tmp_path / "in" / "a.wav", noise(3, rate=16000), 16000)
  (tmp_path / "in" / "b.wav").write_bytes(b"no")
  command = ["prepare", str(tmp_path / "in"), str(tmp_path / "out")]
  assert cli.main([*command, "--rate=12000", "--channels=2"]) == 0
  printed = capsys.readouterr()
  assert "b.wav: " in printed.out and "skipped   1" in printed.out
  assert "2/2 files" in printed.err and "1 skipped" in printed.err
  about = describe(tmp_path / "out")
  assert (about["rate"], about["channels"], about["records"]) == (12000, 2, 1)
  assert cli.main(command) == 2
  assert "--force" in capsys.readouterr().err
  assert cli.main([*command, "--force", "--only=nonsense"]) == 2


def test_a_record_holds_a_clip_of_any_language_model():
  """Catches two defaults, or one shorter than the clips of 30 s."""
  parser = argparse.ArgumentParser()
  prepare_verb.add_arguments(parser)
  asked = parser.parse_args(["in", "out"]).seconds
  default = inspect.signature(records.prepare).parameters["seconds"].default
  assert asked == default == 30.0
