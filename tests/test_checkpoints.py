"""Damaged checkpoints: the newest intact one is used, and the user is told."""

import os
import shutil

import numpy as np
import pytest

from mmdcodec.errors import UserError
from mmdcodec.store import digests
from mmdcodec.store.checkpoints import Checkpoints

STEPS, BEST = (5, 10, 15, 20), 10


def state_of(step):
  return {"params": {"w": np.arange(3000.0) + step, "b": np.full((3, 4), step)}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The workdir of a run whose best checkpoint is the second."""
  workdir = tmp_path_factory.mktemp("run")
  checkpoints = Checkpoints(workdir, keep=4, best="valid/d")
  for step in STEPS:
    score = {"valid/d": float(abs(step - BEST) + step / 100)}
    checkpoints.save(step, state_of(step), {"index": 2 * step}, score)
    checkpoints.wait()
  checkpoints.close()
  return workdir


@pytest.fixture
def copy(run, tmp_path):
  shutil.copytree(run, tmp_path / "run")
  return tmp_path / "run"


def opened(workdir, said, **kwargs):
  return Checkpoints(workdir, best="valid/d", say=said.append, **kwargs)


def assert_is(state, step):
  for name, array in state_of(step)["params"].items():
    np.testing.assert_array_equal(state["params"][name], array)


def flip_a_bit(content):
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


DAMAGE = {
  "deleted": None,
  "emptied": lambda content: b"",
  "halved": lambda content: content[: len(content) // 2],
  "zeroed": lambda content: bytes(len(content)),
  "a bit flipped": flip_a_bit,
}


def damage(file, change):
  if change is None:
    file.unlink()
  else:
    file.write_bytes(change(file.read_bytes()))


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_any_damage_of_any_file_is_passed_over(copy, change):
  """Zeroed and flipped array data restored without a word."""
  newest = copy / "checkpoints" / str(STEPS[-1])
  files = [f for f in newest.glob("*/**/*") if f.is_file()]
  largest = max(files, key=lambda file: file.stat().st_size)
  named = [newest / "state/_METADATA", newest / "data/metadata"]
  for file in (largest, *named, newest / "metrics/metrics"):
    kept, said = file.read_bytes(), []
    damage(file, change)
    checkpoints = opened(copy, said, read_only=True)
    assert_is(checkpoints.restore_arrays(), 15)
    checkpoints.close()
    (line,) = said
    assert f"{newest} is damaged ({file.relative_to(newest)}" in line
    assert "using checkpoint 15 instead" in line
    file.write_bytes(kept)


@pytest.mark.parametrize("item", ["state", "data", "metrics"])
def test_missing_parts_are_damage(copy, item):
  shutil.rmtree(copy / "checkpoints/20" / item)
  said = []
  checkpoints = opened(copy, said, read_only=True)
  assert checkpoints.latest == 15 and len(said) == 1
  checkpoints.close()


def test_a_digest_that_cannot_be_read_is_damage(copy):
  listed = (b"1", b'["x", 2]', b"[-Infinity, 2]", b"[NaN, 2]", b"[1e999, 2]")
  objects = [b'{"a": %b}' % each for each in listed]
  for content in (b"", b"{", b"[]", b"\xff", *objects):
    (copy / "checkpoints/20" / digests.FILE).write_bytes(content)
    said = []
    checkpoints = opened(copy, said, read_only=True)
    assert checkpoints.latest == 15, content
    assert digests.FILE in said[0]
    checkpoints.close()


def test_the_run_goes_on_and_replaces_them(copy):
  """A damaged checkpoint of a later step must not count as the latest one."""
  folder, said = copy / "checkpoints", []
  for step in (15, 20):
    damage(next((folder / str(step) / "state/d").iterdir()), DAMAGE["zeroed"])
  checkpoints = opened(copy, said, keep=1)
  assert checkpoints.latest == 10
  (line,) = said
  assert f"{folder}/20 is damaged" in line and f"{folder}/15 is" in line
  for step in (13, 20):
    assert checkpoints.latest == (10 if step == 13 else 13)
    checkpoints.save(step, state_of(-step), {"index": step}, {"valid/d": 7.0})
    checkpoints.wait()
  checkpoints.close()
  assert {path.name for path in folder.iterdir()} == {"10", "20"}
  checkpoints = opened(copy, said, read_only=True)
  assert_is(checkpoints.restore_arrays(), -20)
  checkpoints.close()
  assert len(said) == 1


@pytest.mark.parametrize("inside", [None, "notes.txt"])
def test_other_folders_are_no_checkpoints(copy, inside):
  """An empty folder of a high number made a run done."""
  other, said = copy / "checkpoints/99999", []
  other.mkdir()
  if inside:
    (other / inside).write_text("x")
  (copy / "checkpoints/7").write_text("a file")
  empty = opened(copy / "fresh", said)
  assert empty.latest is None and empty.best_step() is None
  empty.close()
  checkpoints = opened(copy, said, keep=2)
  assert checkpoints.latest == 20 and checkpoints.best_step() == BEST
  checkpoints.save(25, state_of(25), {"index": 1}, {"valid/d": 50.0})
  checkpoints.wait()
  if inside:
    with pytest.raises(UserError, match="99999 is no checkpoint; move it away"):
      checkpoints.save(99999, state_of(1), {"index": 1})
    assert (other / inside).exists()
  checkpoints.close()
  assert not said
  left = {path.name for path in (copy / "checkpoints").iterdir()}
  assert left == {"7", "10", "20", "25", "99999"}


@pytest.mark.parametrize("file", ["state/manifest.ocdbt", "metrics/metrics"])
def test_another_stands_in_for_a_damaged_best(copy, file):
  """Without its metrics, a damaged checkpoint may have been the best one."""
  damage(copy / "checkpoints/10" / file, DAMAGE["emptied"])
  said = []
  checkpoints = opened(copy, said, read_only=True)
  assert checkpoints.best_step() == (20 if "state" in file else 5)
  (line,) = said
  assert "checkpoints/10 is damaged" in line
  checkpoints.close()


def test_a_damaged_score_chooses_no_checkpoint(copy):
  """Catches a worse checkpoint taken without a word: one digit is another."""
  path = copy / "checkpoints/10/metrics/metrics"
  path.write_text(path.read_text().replace("0.1", "9.1"))
  said = []
  checkpoints = opened(copy, said, read_only=True)
  assert checkpoints.best_step() == 5
  assert ["checkpoints/10 is damaged" in line for line in said] == [True]
  checkpoints.close()


def test_a_step_that_was_asked_for_is_not_replaced(copy):
  damage(copy / "checkpoints/10/data/metadata", DAMAGE["zeroed"])
  checkpoints = opened(copy, [], read_only=True)
  with pytest.raises(UserError, match=r"10 is damaged.*\[5, 15, 20\]"):
    checkpoints.restore_arrays(10)
  with pytest.raises(UserError, match="no checkpoint of step 11"):
    checkpoints.restore_arrays(11)
  checkpoints.close()


def test_no_intact_one_is_an_error(copy):
  """Training must not start again over what may be mended."""
  for step in STEPS:
    damage(copy / f"checkpoints/{step}/data/metadata", DAMAGE["emptied"])
  for read_only in (True, False):
    checkpoints = opened(copy, [], read_only=read_only)
    with pytest.raises(UserError, match="20 is damaged .*no intact checkpoint"):
      _ = checkpoints.latest
    checkpoints.close()


def test_metadata_that_is_nested_too_deeply_is_named(copy):
  """Orbax bears with other damage of this file."""
  metadata = copy / "checkpoints/15/_CHECKPOINT_METADATA"
  assert metadata.exists()
  metadata.write_bytes(bytes(100))
  opened(copy, []).close()
  metadata.write_text("[" * 10_000)
  with pytest.raises(UserError, match="delete the files of this name"):
    opened(copy, [])


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_metadata_that_is_no_file_is_named(copy, make):
  metadata = copy / "checkpoints/15/_CHECKPOINT_METADATA"
  metadata.unlink()
  make(metadata)
  with pytest.raises(UserError, match="delete the files of this name"):
    opened(copy, [])


def test_those_of_earlier_versions_have_no_digest(copy):
  for step in STEPS:
    (copy / f"checkpoints/{step}" / digests.FILE).unlink()
  said = []
  checkpoints = opened(copy, said, read_only=True)
  assert checkpoints.best_step() == BEST
  assert_is(checkpoints.restore_arrays(), 20)
  damage(copy / "checkpoints/20/state/manifest.ocdbt", DAMAGE["zeroed"])
  with pytest.raises(UserError, match="20, of an earlier version, .*delete it"):
    checkpoints.restore_arrays()
  checkpoints.close()
  assert not said


def test_files_that_go_while_they_are_read(tmp_path, monkeypatch):
  """A training removes the checkpoint that an export is reading."""
  (tmp_path / "state").mkdir()
  (tmp_path / "state/a").write_text("a")
  digests.write(tmp_path)
  assert digests.damage(tmp_path) is None
  read = digests._hash

  def gone(path):
    path.unlink()
    return read(path)

  monkeypatch.setattr(digests, "_hash", gone)
  assert digests.damage(tmp_path) == "state/a is missing"


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_a_measure_that_is_not_finite_is_not_the_best(tmp_path, mode, sign):
  """Catches a NaN for which the best checkpoint is deleted."""
  checkpoints = Checkpoints(tmp_path, keep=1, best="valid/d", best_mode=mode)
  scores = {5: 3.0, 10: 2.0, 15: float("nan"), 20: 4.0, 25: float("inf")}
  for step, score in scores.items():
    given = {"valid/d": sign * score}
    checkpoints.save(step, state_of(step), {"index": step}, given)
    checkpoints.wait()
  assert checkpoints.best_step() == 10 and checkpoints.latest == 25
  checkpoints.close()
  kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
  assert kept == {"10", "25"}
