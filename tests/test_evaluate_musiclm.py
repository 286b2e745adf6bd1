"""`mmdcodec evaluate musiclm`, on a tiny MusicLM that was not trained.

Must catch: bits that are not those of the stage's predictions, results that do
not reach the page, and mistakes that are found after the work.
"""

import argparse
import json
import math

import jax
import numpy as np
import pytest
import random_musiclm
from known_tokens import Known, songs, write

from mmdcodec import bundle
from mmdcodec.cli import evaluate_memorization
from mmdcodec.cli.main import main
from mmdcodec.data import token_batches
from mmdcodec.errors import UserError
from mmdcodec.evaluate import built_in, stage_likelihood, token_sets
from mmdcodec.generation.musiclm import LoadedMusicLM
from mmdcodec.generation.stage import Stage

pytestmark = pytest.mark.usefixtures("compile_fast")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
  """Token data sets that seem to come from the parts of the tiny MusicLM."""
  folder = tmp_path_factory.mktemp("tokens")
  sets = []
  for key in ("codec", "semantic", "joint"):
    real = random_musiclm.tokenizer(key)
    known = Known(real.kind, real.frame_rate, real.codebook_sizes)
    known.hash = real.hash
    sets.append(known)
  write(songs(folder, seconds=3.0), folder / "tokens", *sets)
  return folder / "tokens"


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.slow
def test_bits_of_a_stage(tokens):
  """Catches padding that counts, other codebooks, bits per step."""
  stage = Stage(*random_musiclm.stage("fine"))
  (source,) = token_sets.of_stage(stage, token_sets.find([tokens]))
  found = stage_likelihood.measure(stage, [source], crops=5)
  assert found.found.counts.tolist() == [[12, 12]] * 5
  model, rows = stage.model, []
  for k in range(5):
    record, where = divmod((k + 0.5) / 5 * len(source), 1)
    row = token_batches.crop(
      source, int(record), where, 12, stage.conditions, slice(2, 4)
    )
    rows.append(row)
  codes = np.stack([row["codes"] for row in rows])
  pattern = model.pattern_of(12)
  steps = np.asarray(pattern.build(codes, model.special))
  inputs = {
    name: {
      k: np.stack([row["conditions"][name][k] for row in rows])
      for k in rows[0]["conditions"][name]
    }
    for name in rows[0]["conditions"]
  }
  logits = jax.jit(model.apply)(
    {"params": stage.variables["params"]}, steps[:, :-1], inputs
  )
  logs = log_softmax(np.asarray(logits, np.float64))
  bits = 0.0
  for b, step, book in np.ndindex(steps[:, 1:].shape):
    code = steps[b, step + 1, book]
    if code != model.special:
      bits -= logs[b, step, book, code] / math.log(2)
  assert found.bits_per_token == pytest.approx(bits / (5 * 24), rel=1e-5)
  assert found.bits_per_frame == pytest.approx(bits / (5 * 12), rel=1e-5)
  assert found.low <= found.bits_per_token <= found.high
  assert found.uniform == 5 and found.frame_rate == 40


def test_the_semantic_stage_of_a_whole_model():
  """Catches centres of another tokenizer, and stages that are not found."""
  args = argparse.Namespace(model="musiclm", semantic=None)
  music = LoadedMusicLM(*random_musiclm.musiclm())
  stage, centres = evaluate_memorization.find(args, music)
  assert stage is music.parts.stages["semantic"]
  codebook = music.semantic.variables["codebook"]["embed"]
  np.testing.assert_array_equal(centres, codebook[0])
  with pytest.raises(UserError, match="no semantic stage"):
    evaluate_memorization.find(args, music.codec)
  with pytest.raises(UserError, match="--semantic"):
    evaluate_memorization.find(args, stage)
  stage.target["hash"] = "another"
  with pytest.raises(UserError, match="not of this one"):
    evaluate_memorization.find(args, music)


@pytest.mark.slow
def test_the_command(tokens, tmp_path, capsys, fails, monkeypatch):
  """Catches measures that do not run with a real model, or get lost."""
  bundle.save(tmp_path / "musiclm", *random_musiclm.musiclm())
  argv = ["evaluate", "musiclm", "--model", str(tmp_path / "musiclm")]
  argv += ["--clips", "2", "--seconds", "0.8"]
  assert "needs --tokens" in fails(*argv, "--only", "likelihood")
  assert "no measure" in fails(*argv, "--only", "fad")
  assert "at least 2" in fails(*argv, "--clips", "1")
  assert "guidance" in fails(*argv, "--guidance", "-1")
  # This model takes short prompts only.
  assert "tokens" in fails(*argv, "--only", "seams")
  monkeypatch.setattr(
    built_in, "captions", lambda tags, balanced: ["drums"] * len(tags)
  )
  out = tmp_path / "out"
  argv += ["--only", "consistency,likelihood,oracle"]
  argv += ["--tokens", str(tokens), "--audio", str(tokens.parent / "in")]
  assert "for at least two" in fails(*argv, "--prompt", "calm")
  argv += ["--prompt", "calm", "--prompt", "loud"]
  assert main([*argv, "--out", str(out)]) == 0
  printed = capsys.readouterr().out
  found = json.loads((out / "results.json").read_text())
  assert [*found] == [
    "about", "consistency", "likelihood", "oracle"
  ]  # fmt: skip
  assert [*found["likelihood"]] == ["semantic", "coarse", "fine"]
  assert f"{found['consistency']['pieces']['own']:.3f}" in printed
  page = (out / "report.html").read_text()
  assert "True tokens into each stage" in page and page.count("<audio ") > 5
  assert len([*(out / "audio").glob("*.flac")]) == page.count("<audio ")
