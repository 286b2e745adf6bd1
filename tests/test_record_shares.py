"""Data sets that several commands make: the bytes of one, whoever does what.

Must catch: records lost, doubled or out of order between commands; a sum that
depends on who added; a killed command whose work is lost, or half of which
counts; two commands that put the parts together at once; parts of other audio
or with other options in one data set; a data set that is made again because a
command was started once more.
"""

import json
import os
import re
import secrets

import numpy as np
import pytest
import soundfile

from mmdcodec.cli import main as cli
from mmdcodec.data import record_blocks, record_shares, record_writer, records
from mmdcodec.errors import UserError
from mmdcodec.store import locks, paths, uploads

RATE = 8000
OPTIONS = dict(rate=RATE, channels=1, seconds=0.7)


@pytest.fixture
def music(tmp_path, monkeypatch):
  """Eleven files, of which some are not to be used; a block is two or so."""
  folder = tmp_path / "in"
  (folder / "sub").mkdir(parents=True)
  random = np.random.default_rng(0)
  for i in range(9):
    x = random.integers(-9000, 9000, RATE + 1234 * i).astype(np.int16)
    if i == 4:
      x[:] = 3  # silence
    soundfile.write(folder / ("sub" if i % 2 else ".") / f"{i}.wav", x, RATE)
  (folder / "sub" / "1.json").write_text(
    '{"caption": "one", "tags": {"b": 1, "a": []}}'
  )
  (folder / "broken.wav").write_bytes(b"no")
  (folder / "sub" / "z.wav").write_bytes(b"broken")
  (folder / "old.wma").write_bytes(b"not supported")
  monkeypatch.setattr(record_blocks, "_LEAST", 40_000)
  # Three shards, that end within blocks and between them.
  monkeypatch.setattr(records, "_SHARD", 90_000)
  return folder


@pytest.fixture(params=("disk", "memory://bucket"))
def out(request, tmp_path):
  """Where the data set goes: on a disk and in an object store."""
  if request.param == "disk":
    yield tmp_path / "out"
    return
  folder = paths.of(f"{request.param}/{secrets.token_hex(4)}")
  yield folder / "out"
  paths.remove(folder)


@pytest.fixture
def one(music, tmp_path):
  """The files of the data set that one command makes."""
  records.prepare(music, tmp_path / "one", progress=False, **OPTIONS)
  found = contents(tmp_path / "one")
  assert len([name for name in found if "array_record" in name]) == 3
  return found


def contents(folder):
  return {name: (folder / name).read_bytes() for name in paths.sizes(folder)}


def share(music, out, index, count, **changes):
  job = records.plan(music, out, **{**OPTIONS, **changes})
  return record_shares.make_share(job, index, count, workers=2, progress=False)


def left(out):
  """Names beside the data set."""
  folder = out.parent
  if isinstance(folder, paths.Url):
    return sorted({name.split("/")[0] for name in folder.files()})
  return sorted(set(os.listdir(folder)) - {"in", "one"})


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_the_files_are_those_of_one_command(music, out, one, order):
  first, second, third = order
  assert f"missing: those of --shards {min(second, third)}/3" in share(
    music, out, first, 3
  )
  assert re.search(rf"shards {third}/3\. The", share(music, out, second, 3))
  assert not out.exists()
  report = share(music, out, third, 3)
  assert "skipped   3" in report and "silent    2" in report
  assert contents(out) == one
  assert left(out) == ["out"]
  # A scheduler may start any of them again.
  assert "is complete" in share(music, out, 1, 3)
  assert contents(out) == one and left(out) == ["out"]


def test_a_killed_command_keeps_its_blocks(music, out, one, monkeypatch):
  """And the number of commands may change."""
  encoded, left = [], [5]
  encode = record_writer._encode

  def die(path, *args):
    if not left[0]:
      raise MemoryError("killed")
    left[0] -= 1
    encoded.append(path.name)
    return encode(path, *args)

  monkeypatch.setattr(record_writer, "_encode", die)
  with pytest.raises(MemoryError):
    share(music, out, 1, 1)
  blocks = record_blocks.Blocks(records.plan(music, out, **OPTIONS))
  assert 0 < len(blocks.finished()) < len(blocks)
  done = {
    blocks._job.sources[i].path.name
    for number in blocks.finished()
    for i in blocks.files[number]
  }
  encoded.clear()
  left[0] = 99
  share(music, out, 2, 2)
  share(music, out, 1, 2)
  assert contents(out) == one
  assert not done & {*encoded}


def test_killed_while_the_parts_are_joined(music, out, one, monkeypatch):
  """Whatever was written last, any command finishes it."""
  for where in ("build", "after"):
    target, name = (records, "build") if where == "build" else (
      record_blocks.Blocks, "remove"
    )  # fmt: skip
    with monkeypatch.context() as patch:

      def die(*args):
        raise MemoryError("killed")

      patch.setattr(target, name, die)
      with pytest.raises(MemoryError):
        share(music, out, 1, 1)
    assert out.exists() == (where == "after")
    share(music, out, 2, 5)
    assert contents(out) == one and left(out) == ["out"]
    paths.remove(out)


def test_a_command_that_was_overtaken(music, out, one, monkeypatch):
  """The blocks that it makes are another's, who is done and has tidied up."""
  write = record_blocks.Blocks.write
  inside = []

  def slow(self, numbers, **kwargs):
    if not inside:
      inside.append(True)
      share(music, out, 1, 1)
      assert contents(out) == one
    write(self, numbers, **kwargs)

  monkeypatch.setattr(record_blocks.Blocks, "write", slow)
  assert "is complete" in share(music, out, 1, 1)
  assert contents(out) == one and left(out) == ["out"]


def test_one_command_joins_the_parts(music, tmp_path):
  """Another one that sees them all leaves it to the one with the lock."""
  out = tmp_path / "out"
  share(music, out, 1, 2)
  held = locks.take(tmp_path / ".out.unfinished")
  assert "another command joins them" in share(music, out, 2, 2)
  held.release()
  assert "dataset" in share(music, out, 2, 2)


def test_a_damaged_part_is_made_again(music, out, one):
  share(music, out, 1, 2)
  (part, *_) = out.with_name(".out.unfinished").glob("*-00000.records")
  part.write_bytes(b"x" + part.read_bytes()[:9000])
  with pytest.raises(UserError, match="was damaged; it counts as missing now"):
    share(music, out, 2, 2)
  assert "missing: those of --shards 1/2" in share(music, out, 2, 2)
  share(music, out, 1, 2)
  assert contents(out) == one


def change_audio(music):
  with (music / "0.wav").open("ab") as file:
    file.write(b"  ")


def change_caption(music):
  (music / "sub" / "1.json").write_text('{"caption": "another"}')


@pytest.mark.parametrize(
  "change, options, words",
  [
    (change_audio, {}, "bytes was .*, is "),
    (change_caption, {}, "labels was"),
    (lambda music: (music / "2.wav").unlink(), {}, "files was 11, is 10"),
    (lambda music: None, {"rate": 4000}, "rate was 8000, is 4000"),
  ],
)
def test_other_audio_or_options_are_noticed(music, out, change, options, words):
  share(music, out, 1, 2)
  change(music)
  with pytest.raises(UserError, match=rf"\({words}.*--force to begin again"):
    share(music, out, 2, 2, **options)
  options = options | {"force": True}
  share(music, out, 2, 2, **options)
  share(music, out, 1, 2, **options)
  one = out.with_name("alone")
  records.prepare(music, one, progress=False, **{**OPTIONS, **options})
  assert contents(out) == contents(one)
  assert left(out) == ["alone", "out"]


def test_a_finished_data_set_of_other_audio(music, out):
  share(music, out, 1, 1)
  change_audio(music)
  with pytest.raises(UserError, match="finished data set already"):
    share(music, out, 1, 1)
  before = json.loads((out / "mmdcodec.json").read_text())["made_from"]
  share(music, out, 1, 2, force=True)
  assert json.loads((out / "mmdcodec.json").read_text())["made_from"] == before
  share(music, out, 2, 2, force=True)
  assert json.loads((out / "mmdcodec.json").read_text())["made_from"] != before


def test_another_command_probes_the_store(music, tmp_path):
  """Its object is no reason to refuse the folder, nor is it when it goes."""
  folder = paths.of(f"memory://bucket/{secrets.token_hex(4)}")
  probe = folder / "out" / f"{uploads.PROBE}0"
  probe.write_bytes(b"")
  assert "missing: " in share(music, folder / "out", 1, 2)
  other = folder / "out" / "notes.txt"
  other.write_bytes(b"mine")
  with pytest.raises(UserError, match="is not a data set"):
    share(music, folder / "out", 1, 2)
  paths.remove(folder)


def test_nothing_can_be_read(tmp_path):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "a.wav").write_bytes(b"no")
  with pytest.raises(UserError, match="no audio file could be read"):
    share(tmp_path / "in", tmp_path / "out", 1, 1)
  assert os.listdir(tmp_path) == ["in"]


def test_blocks_are_of_a_size():
  """Every file is in one, large files are alone, and there are not too many."""
  sizes = [1, 2, 900 << 20, 3, *[300_000] * 50_000]
  blocks = record_blocks.divide(sizes)
  assert [i for block in blocks for i in block] == list(range(len(sizes)))
  assert range(2, 3) in blocks and len(blocks) < 6000
  assert record_blocks.divide([0, 0]) == [range(0, 2)]


def test_the_command(music, out, one, capsys, fails):
  command = ["prepare", music, out, "--rate=8000", "--seconds=0.7", "--quiet"]
  assert "expected I/N with I from 1 to N" in fails(*command, "--shards=3/2")
  assert "I from 1 to N" in fails(*command, "--shards=0/2")
  assert "expected I/N, such as 2/8" in fails(*command, "--shards=2")
  for i in (1, 2):
    assert cli.main([*map(str, command), f"--shards={i}/2"]) == 0
  assert "records   " in capsys.readouterr().out
  assert contents(out) == one
