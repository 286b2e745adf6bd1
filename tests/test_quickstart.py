"""The whole job: music, training, export, evaluation, page.

Catches: a stage that does not fit the one before it, work done again when the
command is repeated, held-out music that is trained on, a page without its
players or without the untrained codec beside the trained one, a loss called a
gain, a broken file that ends the job, and a job that trains on its own links.
"""

import html
import json
import re
import types

import numpy as np
import pytest
import smallest_codec
import soundfile
from mmdcodec.configs import quickstart as configs

import mmdcodec
from mmdcodec import progress
from mmdcodec.audio import song_files
from mmdcodec.cli.main import main
from mmdcodec.data import audio_folder, records
from mmdcodec.errors import UserError
from mmdcodec.train import preemption, settings
from mmdcodec.workflows import (
  quickstart,
  quickstart_codec,
  quickstart_first,
  quickstart_job,
  quickstart_report,
)


def make_job(workdir, **options):
  return quickstart_job.make_job(workdir, tiny=True, **options)


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
  (folder / "6.wav.json").write_text('{"caption": "whole name"}')
  return folder


@pytest.mark.slow
def test_quickstart_interrupted_then_continued_then_repeated(
  tmp_path, capsys, monkeypatch, compile_fast
):
  monkeypatch.setattr(configs, "get_config", smallest_codec.get_config)
  argv = ["quickstart", "--tiny", "--steps", "4", "--workdir"]
  argv.append(str(tmp_path / "job"))

  def interrupt(job):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(quickstart_codec, "export", interrupt)
    assert main(argv) == 130
  first = capsys.readouterr().out
  assert "[4/11] train: 4 steps" in first and "report" not in first
  # The preview is there before the codec is. Of the last step here, it is what
  # the bundle makes of the clip.
  heard = tmp_path / "job" / "preview" / "reconstruction.flac"
  assert str(tmp_path / "job" / "first" / "reconstruction.flac") in first
  assert f"listen: {heard}" in first and "after 4 of 4 steps" in first

  assert main(argv) == 0
  second = capsys.readouterr().out
  for stage in ("1/11] listen", "2/11] music", "3/11] prepare", "4/11] train"):
    assert f"[{stage}: done before" in second
  # The codec is not trained again; the language model is, with as many steps.
  assert "[11/11] report: " in second and second.count("step 4/4") == 1
  page = tmp_path / "job" / "report.html"
  assert str(page) in second

  assert main(argv) == 0
  assert capsys.readouterr().out.count("done before") == 11

  assert main([*argv, "--steps", "5"]) == 2
  assert "steps was 4, is 5" in capsys.readouterr().err

  codec = mmdcodec.load(tmp_path / "job" / "bundle")
  assert codec.config["training"]["step"] == 4
  ends = tmp_path / "job" / "evaluation" / "trained" / "audio"
  for name in ("original", "reconstruction"):
    preview = soundfile.read(heard.with_stem(name))[0]
    final = soundfile.read(ends / f"000-{name}.flac")[0]
    np.testing.assert_allclose(preview, final, atol=1e-3)
  results = {}
  for name in ("trained", "untrained"):
    path = tmp_path / "job" / "evaluation" / name / "results.json"
    results[name] = json.loads(path.read_text())
  trained, untrained = results["trained"], results["untrained"]
  assert trained["about"]["hash"] == codec.hash != untrained["about"]["hash"]
  # What was measured is the middle of the songs held out, of no other ones.
  for name in results:
    for index in range(2):
      folder = tmp_path / "job" / "evaluation" / name / "audio"
      found, rate = soundfile.read(folder / f"00{index}-original.flac")
      song = tmp_path / "job" / "music" / "test" / f"song_0000{index}.flac"
      expected = soundfile.read(song)[0][rate : 2 * rate]
      np.testing.assert_allclose(found, expected, atol=1e-4)
  margin = trained["mel_distance"]["mean"] - untrained["mel_distance"]["mean"]
  line = next(
    s for s in second.splitlines() if s.startswith("mel distance (dB)")
  )
  assert float(line.split()[-1]) == pytest.approx(margin, abs=0.006)
  assert "the same codec untrained" in second
  # k-means on real latents: even the untrained codec uses its codebooks.
  assert min(untrained["usage"]) > 0.3
  text = page.read_text()
  # Two clips, each as original, reconstruction and from the untrained codec;
  # two pieces from prompts, each beside the song of its caption; the preview
  # and what the packaged codec made, beside the originals; and its new music.
  assert text.count("<audio ") == 15
  assert text.count('src="data:audio/flac;base64,') == 15
  # A spectrogram for every player, two pictures of curves, codebook usage.
  assert text.count("<img ") == 18
  # Each under its own player, with the same title.
  found = re.findall(
    r"<figcaption>([^<]*)</figcaption><audio [^>]*></audio>"
    r'<img alt="spectrogram: ([^"]*)"',
    text,
  )
  assert len(found) == 15
  for title, alt in found:
    assert alt.startswith(f"{title}, ")
  assert "margin" in text and "untrained" in text
  assert "--steps 4 --tiny" in text  # the command that was run
  sidecar = tmp_path / "job" / "music" / "test" / "song_00001.json"
  caption = json.loads(sidecar.read_text())["caption"]
  assert html.escape(caption) in text

  # What was made is what the music model makes of the caption.
  music = mmdcodec.load(tmp_path / "job" / "music_bundle")
  assert music.codec.hash == codec.hash
  made, rate = soundfile.read(tmp_path / "job" / "generated" / "01.flac")
  again = music.generate([caption], seconds=1.0, seed=1)[0, :, 0]
  assert rate == music.rate
  np.testing.assert_allclose(made, np.clip(again, -1, 1), atol=1e-3)
  assert not re.search(r'src="(?!data:)', text)


def test_a_run_that_was_asked_to_stop_says_so(tmp_path, monkeypatch, capsys):
  def preempted(job):
    raise preemption.Preempted(3)

  monkeypatch.setattr(quickstart_codec, "make_music", preempted)
  monkeypatch.setattr(quickstart_first, "make", lambda job: "nothing")
  argv = ["quickstart", "--tiny", "--workdir", str(tmp_path)]
  assert main(argv) == preemption.EXIT_CODE
  assert "report" not in capsys.readouterr().out


def test_splits_are_disjoint_complete_and_always_the_same(tmp_path):
  paths = [tmp_path / f"{i}.wav" for i in range(60)]
  split = audio_folder.split_files(paths, tmp_path)
  assert {k: len(v) for k, v in split.items()} == {
    "train": 51,
    "valid": 3,
    "test": 6,
  }
  assert sorted(sum(split.values(), [])) == sorted(paths)
  assert audio_folder.split_files(paths[::-1], tmp_path) == split
  # Elsewhere and with a file more, the others stay on their side, mostly.
  moved = [p.parent / "x" / p.name for p in paths] + [tmp_path / "x/new.wav"]
  again = audio_folder.split_files(moved, tmp_path / "x")
  names = {k: {p.name for p in v} for k, v in again.items()}
  assert len(names["test"] & {p.name for p in split["test"]}) >= 5
  with pytest.raises(UserError, match="at least 3"):
    audio_folder.split_files(paths[:2], tmp_path)


def test_own_music_is_linked_with_its_captions(tmp_path, music):
  job = make_job(tmp_path / "job", audio=str(music))
  result = quickstart_codec.make_music(job)
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
  assert len(list(folder.glob("*/6.wav.json"))) == 1
  assert [p.parent.name for p in found if p.stem == "3"] == ["sub"]
  # Interrupted and run again.
  assert quickstart_codec.make_music(job) == result


def test_a_workdir_of_an_earlier_version(tmp_path, fails):
  """Its codec was a SEANet: one sentence says what can be done."""
  old = {"train": {"settings": {"model": {"topology": "seanet"}}, "done": True}}
  path = tmp_path / "stages.json"
  path.write_text(json.dumps(old))
  line = fails("quickstart", "--tiny", "--workdir", tmp_path)
  words = "seanet, codes with phases, now spectral, codes without phases"
  assert "earlier version" in line and words in line
  assert "--workdir" in line and "--force" in line
  assert json.loads(path.read_text()) == old
  # Settings that only the user can have changed are named as before.
  job = make_job(tmp_path)
  old["train"]["settings"] = {**job.config, "steps": 7}
  path.write_text(json.dumps(old))
  line = fails("quickstart", "--tiny", "--workdir", tmp_path)
  assert "steps was 7, is 20" in line and "version" not in line
  # From nothing and from the packaged codec are told apart.
  old["train"]["settings"] = {**job.config, "init_from": "small"}
  path.write_text(json.dumps(old))
  line = fails("quickstart", "--tiny", "--workdir", tmp_path)
  assert "begun from the packaged codec: leave out --from-scratch" in line


def test_the_quantizer_starts_within_a_short_run(tmp_path):
  for steps, expected in ((4, 0), (16, 2), (5000, 60)):
    job = quickstart_job.make_job(tmp_path, steps=steps, from_scratch=True)
    assert job.config["quantizer_start"] == expected


def test_changed_music_is_noticed(tmp_path, music):
  job = make_job(tmp_path / "job", audio=str(music))
  before = quickstart_codec.music_settings(job)
  assert quickstart_codec.music_settings(job) == before
  soundfile.write(music / "0.wav", np.zeros(900), 8000)
  assert quickstart_codec.music_settings(job) != before
  assert quickstart_codec.music_settings(make_job(tmp_path / "job")) != before


def test_mistakes(tmp_path, capsys):
  job = ["quickstart", "--tiny", "--workdir", str(tmp_path / "job")]
  for argv, words in (
    (["--audio", str(tmp_path / "missing")], "no such folder"),
    (["--audio", str(tmp_path)], "at least 3"),
    (["--steps", "0"], "at least 1"),
  ):
    assert main(job + argv) == 2
    assert words in capsys.readouterr().err


def test_broken_files_are_left_out_before_the_split(tmp_path, music, capsys):
  (music / "0.wav").write_text("not audio")
  noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20000)
  soundfile.write(music / "cut.flac", noise, 8000)
  data = (music / "cut.flac").read_bytes()
  (music / "cut.flac").write_bytes(data[: len(data) // 2])
  job = make_job(tmp_path / "job", audio=str(music))
  result = quickstart_codec.make_music(job)
  assert "6 files" in result and "2 unreadable" in result
  shown = capsys.readouterr().out
  assert "0.wav" in shown and "cut.flac" in shown
  names = {p.name for p in (job.workdir / "music").rglob("*.*")}
  assert names.isdisjoint({"0.wav", "cut.flac"}) and "1.wav" in names


def test_a_workdir_inside_of_the_music(music, capsys):
  job = make_job(music / "job", audio=str(music))
  before = quickstart_codec.music_settings(job)
  first = quickstart_codec.make_music(job)
  assert quickstart_codec.music_settings(job) == before
  assert quickstart_codec.make_music(job) == first and "7 files" in first
  for workdir, audio in ((music, music), (music, music / "music" / "train")):
    audio.mkdir(parents=True, exist_ok=True)
    argv = ["quickstart", "--workdir", str(workdir), "--audio", str(audio)]
    assert main(argv) == 2
    assert "give another --workdir" in capsys.readouterr().err


def test_any_name_of_a_workdir(tmp_path):
  job = make_job(tmp_path / "a=0.5,b=2")
  data = quickstart_codec.with_data(job)["data"]
  for split in ("train", "valid"):
    expected = {str(job.workdir / "data" / split): 1.0}
    assert settings.parse_datasets(data[split]) == expected


def test_long_work_shows_progress(tmp_path, music, monkeypatch, capsys):
  now = [100.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  show = progress.counter("songs")
  show(2, 12)
  now[0] += 20
  show(7, 12)
  expected = "  7/12 songs, 0.2 a second, 20 s left\n"
  assert capsys.readouterr().err == expected

  def write_songs(folder, progress, **options):
    now[0] += 100
    progress(1, 2)

  monkeypatch.setattr(song_files, "write_songs", write_songs)
  quickstart_codec.make_music(make_job(tmp_path))
  assert "1/2 songs (test)" in capsys.readouterr().err

  asked = []

  def prepare(*paths, progress, **options):
    asked.append(progress)
    return records.Report()

  monkeypatch.setattr(records, "prepare", prepare)
  quickstart_codec.prepare(make_job(tmp_path, audio=str(music)))
  assert asked == [True, True]


def test_nothing_is_done_again_for_what_is_only_heard(tmp_path, music):
  """Catches a codec that is trained again because `first` is not there."""
  stages = quickstart.make_stages(make_job(tmp_path))
  assert [stage.name for stage in stages[:2]] == ["listen", "music"]
  own = quickstart.make_stages(make_job(tmp_path, audio=str(music)))
  assert [stage.name for stage in own[:2]] == ["music", "listen"]
  for stage in stages:
    assert stage.needs is not None and "listen" not in stage.needs
    assert stage.name != "listen" or not stage.needs


def test_a_loss_is_not_called_a_gain():
  def result(value):
    return types.SimpleNamespace(summary={"mel_distance": (value, 0.0)})

  words = quickstart_report.margin(result(9.0), result(5.0), None)
  assert "mel distance 9.0 dB, 4.0 dB more" in words
  words = quickstart_report.margin(result(5.0), result(9.0), result(6.0))
  assert "mel distance 5.0 dB, 4.0 dB less" in words and "(9.0 dB)" in words
  assert "before this training 6.0 dB" in words
