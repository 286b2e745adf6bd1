"""`mmdcodec evaluate lm`, and how well a music model knows music.

Catches: measures that are not those of training, padding or a clip's neighbours
that count, windows that are lost, captions that go to the wrong clip, samples
that are not what the model makes, and mistakes that are found after the work.
"""

import html
import json
import math
import types

import numpy as np
import pytest
import soundfile
from mmdcodec.configs import lm_small
from random_music import random_music

import mmdcodec
from mmdcodec import bundle
from mmdcodec.cli import evaluate_reconstruction
from mmdcodec.cli.main import main
from mmdcodec.errors import UserError
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.evaluate import coded_size, likelihood, likelihood_report
from mmdcodec.train.lm_task import LMTask

pytestmark = pytest.mark.usefixtures("compile_fast")

FRAMES = 12
TEXTS = ["calm piano", "", "a fast tune of drums"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  """Bundle of a tiny music model at 8 kHz, 400 frames a second."""
  folder = tmp_path_factory.mktemp("music")
  config, variables = random_music(
    folder / "codec", codec=dict(dilations=(1,)), frames=FRAMES, layers=1
  )
  bundle.save(folder / "music", config, variables)
  return str(folder / "music")


@pytest.fixture(scope="module")
def music(path):
  return mmdcodec.load(path)


def random_codes(music, *lengths):
  random, model = np.random.default_rng(0), music.model
  return [
    random.integers(0, model.codebook_size, (n, model.codebooks))
    for n in lengths
  ]


def test_the_numbers_of_training(music):
  """Catches another mask, another unit, or texts that are read otherwise."""
  lengths = [FRAMES, 5, 9]
  codes = random_codes(music, *lengths)
  found = likelihood.measure(music, codes, TEXTS)
  config = lm_small.get_config("tiny").to_dict()
  config["model"] = music.config["model"]
  task = LMTask(config)
  batch = {
    "codes": np.stack(
      [np.pad(c, ((0, FRAMES - len(c)), (0, 0))) for c in codes]
    ),
    "lengths": np.array(lengths),
    "conditions": {"text": music.conditions[0].arrays(TEXTS, 0.0)},
  }
  want = task.evaluate({"params": music.variables["params"]}, [batch])
  assert want.keys() == found.summary.keys()
  for name in want:
    np.testing.assert_allclose(found.summary[name], want[name], rtol=1e-5)
  assert found.bits_per_frame == pytest.approx(want["bits_per_frame"])
  np.testing.assert_array_equal(found.counts[:, 0], lengths)


def test_a_clip_is_alone(music):
  """Catches a caption of another clip, windows that are lost or overlap."""
  codes = random_codes(music, 2 * FRAMES + 3, 4, FRAMES)
  together = likelihood.measure(music, codes, TEXTS)
  for i, text in enumerate(TEXTS):
    parts = [
      codes[i][at : at + FRAMES] for at in range(0, len(codes[i]), FRAMES)
    ]
    alone = likelihood.measure(music, parts, [text] * len(parts))
    np.testing.assert_allclose(alone.nats.sum(0), together.nats[i], rtol=1e-5)
    np.testing.assert_array_equal(alone.counts.sum(0), len(codes[i]))
    bits = together.nats[i].sum() / len(codes[i]) / math.log(2)
    assert together.of_clips[i] == pytest.approx(bits)
  # What no text is worth, and what one is.
  free = likelihood.measure(music, codes)
  np.testing.assert_allclose(free.nats[1], together.nats[1], rtol=1e-5)
  assert (np.abs(free.nats - together.nats)[[0, 2]].max(1) > 0.01).all()
  # Shorter windows know less of what was before: these are other numbers.
  short = likelihood.measure(music, codes, TEXTS, seconds=6 / music.frame_rate)
  np.testing.assert_array_equal(short.counts, together.counts)
  assert np.abs(short.nats - together.nats)[0].max() > 0.01
  with pytest.raises(UserError, match="one of each"):
    likelihood.measure(music, codes, ["a"])
  with pytest.raises(UserError, match="nothing to measure"):
    likelihood.measure(music, [codes[0][:0]])


def test_codebooks_that_the_model_does_not_make(music):
  """Catches them in the sums; they come last in what the codec makes."""
  codes = random_codes(music, FRAMES, 5)
  more = [np.pad(each, ((0, 0), (0, 2)), constant_values=1) for each in codes]
  wanted = likelihood.measure(music, codes)
  found = likelihood.measure(music, more)
  np.testing.assert_array_equal(found.nats, wanted.nats)
  clips = [clips_lib.Clip("a", np.zeros((FRAMES * 20, 1), np.float32), "a", "")]

  class Codec:
    hash = "of a codec with more codebooks"
    encode = staticmethod(lambda x: more[0][None])

  of = types.SimpleNamespace(
    **{name: getattr(music, name) for name in (
      "model", "variables", "frame_rate", "conditions", "takes",
    )},
    codec=Codec,
  )  # fmt: skip
  result = likelihood_report.measure(of, clips, {})
  unigram, _ = likelihood.counted(codes[:1], music.model.codebook_size)
  np.testing.assert_allclose(result.counted[0], unigram)


def test_counts_are_those_of_the_coder():
  """Catches a code before the first one, or one of the clip before."""
  random = np.random.default_rng(0)
  steps = random.choice([1, 2], (2, 50, 3), p=[0.9, 0.1])
  codes = np.cumsum(steps, axis=1) % 5
  coded = coded_size.coded_size(codes, 5)
  unigram, bigram = likelihood.counted(list(codes), 5)
  np.testing.assert_allclose(unigram, coded.alone)
  np.testing.assert_allclose(bigram, coded.previous)
  assert (bigram < 0.7 * unigram).all()
  one, _ = likelihood.counted([each[:, :1] for each in codes], 5)
  np.testing.assert_allclose(one, unigram[:1])


@pytest.fixture
def folder(tmp_path):
  """Three clips at 8 kHz, two of them with a caption."""
  random = np.random.default_rng(0)
  folder = tmp_path / "clips"
  folder.mkdir()
  for name, samples in (("a", 400), ("b", 100), ("c", 300)):
    x = 0.3 * random.normal(size=samples)
    soundfile.write(folder / f"{name}.wav", x, 8000, subtype="FLOAT")
  (folder / "a.txt").write_text("a calm tune")
  (folder / "c.json").write_text('{"caption": "drums"}')
  return folder


def test_the_command(tmp_path, path, music, folder, capsys):
  """Catches results of other clips, captions or samples than they say."""
  out = tmp_path / "results"
  argv = ["evaluate", "lm", "--model", path, "--audio", str(folder)]
  assert main([*argv, "--seconds", "0.03", "--out", str(out)]) == 0
  shown = capsys.readouterr().out
  assert "3 clips, 0 s, 2 with a caption" in shown
  results = json.loads((out / "results.json").read_text())
  clips = clips_lib.collect(
    folder, rate=8000, channels=1, seconds=0.03, count=9
  )
  assert [len(clip.audio) for clip in clips] == [240, 100, 240]
  codes = [music.codec.encode(clip.audio)[0] for clip in clips]
  told = likelihood.measure(music, codes, ["a calm tune", "", "drums"])
  free = likelihood.measure(music, codes)
  for name, want in (("with captions", told), ("without text", free)):
    bits = results[name]["bits_per_frame"]
    assert bits == pytest.approx(want.bits_per_frame)
    assert f"{bits:.2f}" in shown
  gain = (free.of_clips - told.of_clips)[[0, 2]]
  worth = results["worth of captions"]
  assert worth["bits_per_frame"] == pytest.approx(gain.mean())
  assert worth["error"] == pytest.approx(np.ptp(gain) / 2)
  # Samples are those of the command that makes music.
  prompts = [each["prompt"] for each in results["samples"]]
  assert prompts == ["a calm tune", "drums"]
  want = music.generate(prompts, seconds=0.03, seed=0)
  for each, y in zip(results["samples"], want, strict=True):
    x = soundfile.read(out / each["file"], dtype="float32")[0]
    np.testing.assert_allclose(x, np.clip(y[:, 0], -1, 1), atol=1e-4)
  page = (out / "report.html").read_text()
  # Beside the clips that have these captions, each with its picture.
  assert page.count("<audio ") == page.count("<img ") == 4
  assert "<h3>a calm tune</h3>" in page and "a.wav · seed 0" in page

  # Again, and the results of before are gone.
  (out / "audio" / "007-sample.flac").touch()
  wanted = ["strings", "slow drums"]
  argv += ["--out", str(out), "--force", "--clips", "1", "--seconds", "0.03"]
  argv += [word for prompt in wanted for word in ("--prompt", prompt)]
  assert main(argv) == 0
  results = json.loads((out / "results.json").read_text())
  assert [each["prompt"] for each in results["samples"]] == wanted
  # The only clip has no caption.
  assert "with captions" not in results and len(results["clips"]) == 1
  assert len(list((out / "audio").iterdir())) == 2
  assert "--prompt strings --prompt 'slow drums'" in html.unescape(
    (out / "report.html").read_text()
  )


def test_captions_of_a_data_set(tmp_path, folder):
  """Catches captions that stay behind in the records."""
  data = tmp_path / "data"
  argv = ["prepare", str(folder), str(data), "--rate", "8000", "--quiet"]
  assert main(argv) == 0
  clips = clips_lib.collect(data, rate=8000, channels=1, seconds=0.03, count=9)
  assert [clip.caption for clip in clips] == ["a calm tune", "", "drums"]


def test_mistakes(tmp_path, path, model, folder, fails, monkeypatch):
  """Catches what is found out after the work, or ends in a traceback."""
  argv = ["--audio", folder, "--seconds", "0.03", "--model"]
  lm = ["evaluate", "lm", *argv]
  assert "is no music model" in fails(*lm, model)
  lm.append(path)
  assert "--codebooks is for codecs" in fails(*lm, "--codebooks", "1")
  assert "--out" in fails(*lm, "--prompt", "a")
  out = ["--out", tmp_path / "out"]
  assert "tokens" in fails(*lm, *out, "--prompt", "x" * 999)
  assert not (tmp_path / "out").exists()
  assert "lm` only" in fails("evaluate", *argv, path, "--prompt", "a")
  # Its codec is measured as any other.
  given = []
  monkeypatch.setattr(
    evaluate_reconstruction, "run", lambda args, codec: given.append(codec)
  )
  assert main(["evaluate", *map(str, argv), path]) == 0
  assert given[0].hash == mmdcodec.load(path).codec.hash
