"""Data sets that workers of Apache Beam make: the bytes of one command.

Must catch: records lost, doubled or out of order; labels that do not reach the
workers; work that is done again when a pipeline is started again; options of
Beam that are taken for our own.
"""

import importlib.util

import numpy as np
import pytest
import soundfile
from test_record_shares import contents

from mmdcodec.cli import main as cli
from mmdcodec.data import beam, record_blocks, record_shares, records

RATE = 8000
INSTALLED = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(
  not INSTALLED, reason="needs Apache Beam: pip install 'mmdcodec[beam]'"
)


@pytest.fixture
def music(tmp_path, monkeypatch):
  """Nine files with captions and tags, in blocks of two or so."""
  folder = tmp_path / "in"
  folder.mkdir()
  random = np.random.default_rng(0)
  rows = ["path,caption,tempo"]
  for i in range(8):
    x = random.integers(-9000, 9000, RATE + 1234 * i).astype(np.int16)
    soundfile.write(folder / f"{i}.wav", x, RATE)
    rows.append(f"{i}.wav,Lied Nr. {i} für dich,{90 + i}")
  (folder / "broken.wav").write_bytes(b"no")
  # A name that is no UTF-8, as in old collections.
  (folder / "0.wav").rename(folder / "z\udcff.wav")
  (folder / "captions.csv").write_text("\n".join(rows[:1] + rows[2:]))
  monkeypatch.setattr(record_blocks, "_LEAST", 40_000)
  return folder


def command(music, out, *options):
  words = ["prepare", music, out, "--rate=8000", "--seconds=0.7", "--quiet"]
  return [*map(str, words), f"--captions={music / 'captions.csv'}", *options]


def test_what_workers_read_is_what_was_planned(music, tmp_path):
  """Catches names, labels and settings that change on the way."""
  options = dict(rate=RATE, channels=1, seconds=0.7)
  job = records.plan(
    music, tmp_path / "out", captions=music / "captions.csv", **options
  )
  place = tmp_path / "job.jsonl"
  place.write_text(beam._described(job))
  found = beam._blocks(str(place))._job
  assert found.digest == job.digest and found.sources == job.sources
  assert (found.out, found.builder) == (job.out, job.builder)


def test_a_worker_asks_for_its_block_alone(music, tmp_path, monkeypatch):
  """Catches lists of all blocks, one for each, and work done again."""
  job = records.plan(
    music, tmp_path / "out", rate=RATE, channels=1, seconds=0.7
  )
  blocks = record_shares.begin(job)
  place = tmp_path / "job.jsonl"
  place.write_text(beam._described(job))
  with monkeypatch.context() as patch:
    patch.setattr(record_blocks.Blocks, "finished", None)
    assert beam._make_block(1, place=str(place), workers=1) == 1
    patch.setattr(record_blocks.Blocks, "write", None)
    assert beam._make_block(1, place=str(place), workers=1) == 1
  assert blocks.finished() == {1}


@pytest.mark.slow
@needs_beam
def test_the_records_are_those_of_one_command(music, tmp_path, capsys):
  assert cli.main(command(music, tmp_path / "one")) == 0
  out, written = tmp_path / "out", []
  for index in ("--shards=2/3", "--runner=DirectRunner"):
    assert cli.main(command(music, out, index)) == 0
    written.append(capsys.readouterr().out)
  assert "missing: those of --shards 1/3, 3/3" in written[0]
  assert "7 with a caption" in written[1]
  assert contents(out) == contents(tmp_path / "one")
  assert not (tmp_path / ".out.unfinished").exists()
  assert cli.main(command(music, out, "--runner=DirectRunner")) == 0
  assert "is complete" in capsys.readouterr().out


@pytest.mark.slow
@needs_beam
def test_options_that_beam_does_not_take(music, tmp_path, fails):
  told = fails(*command(music, tmp_path / "out", "--runner=NoRunner"))
  assert "Apache Beam takes other options: " in told and "NoRunner" in told
  assert not (tmp_path / ".out.unfinished").exists()


def test_the_command(music, tmp_path, fails, monkeypatch):
  words = command(music, tmp_path / "out")
  assert "unknown arguments: --project=p" in fails(*words, "--project=p")
  both = ("--shards=1/2", "--runner=DirectRunner")
  assert "omit --shards" in fails(*words, *both)
  monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
  told = fails(*words, "--runner=DirectRunner")
  assert "pip install 'mmdcodec[beam]'" in told
