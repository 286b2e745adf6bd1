"""The whole job: music, training, export, evaluation, page.

Catches: a stage that does not fit the one before it, work done again when the
command is repeated, held-out music that is trained on, a page without its
players or without the untrained codec beside the trained one.
"""

import argparse
import json
import re

import numpy as np
import pytest
import soundfile
from mmdcodec.configs import common
from mmdcodec.configs import quickstart as configs

import mmdcodec
from mmdcodec.cli import quickstart
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.train import preemption


def make_job(workdir, **options):
  args = dict(workdir=str(workdir), audio=None, steps=None, tiny=True)
  return quickstart.make_job(argparse.Namespace(**{**args, **options}))


@pytest.fixture
def music(tmp_path):
  """Seven files, one in a subfolder, one with a caption beside it."""
  folder = tmp_path / "my music"
  (folder / "sub").mkdir(parents=True)
  for i in range(7):
    path = folder / (f"sub/{i}.wav" if i == 3 else f"{i}.wav")
    soundfile.write(path, np.full(800, i / 10), 8000)
    path.with_suffix(".txt").write_text(f"caption {i}")
  (folder / "notes.txt").write_text("not beside any song")
  return folder


def smallest_config(arg):
  """A codec that compiles in seconds."""
  assert arg == "tiny"
  changes = dict(dilations=(1,), ratios=(8,), filters=2, codebooks=2)
  config = common.shrink(common.codec_config("soundstream_tiny", **changes))
  config.losses.mel.windows = (256,)
  config.compilation_cache = "off"
  return config


@pytest.mark.slow
def test_quickstart_interrupted_then_continued_then_repeated(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(configs, "get_config", smallest_config)
  argv = ["quickstart", "--tiny", "--steps", "4", "--workdir"]
  argv.append(str(tmp_path / "job"))

  def interrupt(job):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(quickstart, "export", interrupt)
    assert main(argv) == 130
  first = capsys.readouterr().out
  assert "[3/6] train: 4 steps" in first and "report" not in first

  assert main(argv) == 0
  second = capsys.readouterr().out
  for stage in ("1/6] music", "2/6] prepare", "3/6] train"):
    assert f"[{stage}: done before" in second
  assert "[6/6] report: " in second and "step 4/4" not in second
  page = tmp_path / "job" / "report.html"
  assert str(page) in second

  assert main(argv) == 0
  assert capsys.readouterr().out.count("done before") == 6

  assert main([*argv, "--steps", "5"]) == 2
  assert "steps was 4, is 5" in capsys.readouterr().err

  codec = mmdcodec.load(tmp_path / "job" / "bundle")
  assert codec.config["training"]["step"] == 4
  results = {}
  for name in ("trained", "untrained"):
    path = tmp_path / "job" / "evaluation" / name / "results.json"
    results[name] = json.loads(path.read_text())
  trained, untrained = results["trained"], results["untrained"]
  assert trained["mel_distance"] != untrained["mel_distance"]
  # k-means on real latents: even the untrained codec uses its codebooks.
  assert min(untrained["use"]) > 0.3
  text = page.read_text()
  # Two clips, each as original, reconstruction and from the untrained codec.
  assert text.count("<audio ") == 6
  assert text.count('src="data:audio/flac;base64,') == 6
  assert text.count("<img ") == 4  # two pairs of spectrograms, curves, use
  assert "margin" in text and "untrained" in text
  assert not re.search(r'src="(?!data:)', text)


def test_a_run_that_was_asked_to_stop_says_so(tmp_path, monkeypatch, capsys):
  def preempted(job):
    raise preemption.Preempted(3)

  monkeypatch.setattr(quickstart, "make_music", preempted)
  argv = ["quickstart", "--tiny", "--workdir", str(tmp_path)]
  assert main(argv) == preemption.EXIT_CODE
  assert "report" not in capsys.readouterr().out


def test_splits_are_disjoint_complete_and_always_the_same(tmp_path):
  paths = [tmp_path / f"{i}.wav" for i in range(60)]
  split = quickstart.split_files(paths, tmp_path)
  assert {k: len(v) for k, v in split.items()} == {
    "train": 51,
    "valid": 3,
    "test": 6,
  }
  assert sorted(sum(split.values(), [])) == sorted(paths)
  assert quickstart.split_files(paths[::-1], tmp_path) == split
  # Elsewhere and with a file more, the others stay on their side, mostly.
  moved = [p.parent / "x" / p.name for p in paths] + [tmp_path / "x/new.wav"]
  again = quickstart.split_files(moved, tmp_path / "x")
  names = {k: {p.name for p in v} for k, v in again.items()}
  assert len(names["test"] & {p.name for p in split["test"]}) >= 5
  with pytest.raises(UserError, match="at least 3"):
    quickstart.split_files(paths[:2], tmp_path)


def test_own_music_is_linked_with_its_captions(tmp_path, music):
  job = make_job(tmp_path / "job", audio=str(music))
  result = quickstart.make_music(job)
  assert "7 files" in result and "1 held out" in result
  folder = job.workdir / "music"
  found = sorted(folder.rglob("*.wav"))
  assert len(found) == 7
  assert {p.name for p in found} == {f"{i}.wav" for i in range(7)}
  for path in found:
    caption = path.with_suffix(".txt").read_text()
    assert caption == f"caption {path.stem}"
    assert path.read_bytes() == next(music.rglob(path.name)).read_bytes()
  assert not list(folder.rglob("notes.txt"))
  assert [p.parent.name for p in found if p.stem == "3"] == ["sub"]
  # Interrupted and run again.
  assert quickstart.make_music(job) == result


def test_changed_music_is_noticed(tmp_path, music):
  job = make_job(tmp_path / "job", audio=str(music))
  before = quickstart.music_settings(job)
  assert quickstart.music_settings(job) == before
  soundfile.write(music / "0.wav", np.zeros(900), 8000)
  assert quickstart.music_settings(job) != before
  assert quickstart.music_settings(make_job(tmp_path / "job")) != before


def test_mistakes(tmp_path, capsys):
  job = ["quickstart", "--tiny", "--workdir", str(tmp_path / "job")]
  for argv, words in (
    (["--audio", str(tmp_path / "missing")], "no such folder"),
    (["--audio", str(tmp_path)], "at least 3"),
    (["--steps", "0"], "at least 1"),
  ):
    assert main(job + argv) == 2
    assert words in capsys.readouterr().err
