"""Stages of a hierarchy: language models over tokens, without a codec.

Must catch: a stage whose tokenizers nobody knows; a run that goes on with the
tokens of others; a run without codec that cannot be opened or exported.
"""

import json

import jax
import numpy as np
import pytest
from known_tokens import Known, songs, write
from mmdcodec.configs import lm_small

import mmdcodec
from mmdcodec import bundle
from mmdcodec.cli import main as cli
from mmdcodec.cli.common import load_music
from mmdcodec.errors import UserError
from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.generation.stage import Stage
from mmdcodec.store import metrics
from mmdcodec.train import loop
from mmdcodec.train.lm_task import LMTask

SEMANTIC, JOINT = Known("semantic", 25.0, (16,)), Known("mulan", 1.0, (8, 8))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
  """Paths of token data sets, "other" being those of another tokenizer."""
  folder = tmp_path_factory.mktemp("tokens")
  audio = songs(folder)
  found = write(audio, folder / "tokens", SEMANTIC, JOINT)
  other = Known("mulan", 1.0, (8, 8), name="b")
  return {**found, "other": write(audio, folder / "more", other)["mulan"]}


def configure(tokens, **changes):
  """A run of a tiny semantic stage without codec."""
  config = lm_small.get_config("tiny").to_dict()
  joint = dict(kind="tokens", codebooks=2, size=8)
  config["model"] |= dict(
    codebooks=1, codebook_size=16, frames=20, width=8, layers=1, hidden=8,
    cross=False, conditions={"joint": joint},
  )  # fmt: skip
  config |= dict(steps=2, eval_every=2, save_every=2)
  config["optimizer"] |= dict(warmup=1)
  config["data"] |= dict(
    train=tokens["semantic"],
    valid=tokens["semantic"],
    frame_rate=25.0,
    streams=f"joint={tokens['mulan']}",
  )
  return config | changes


def train(config, folder):
  """Runs a training silently."""
  loop.train(config, folder, log=lambda line: None)


@pytest.fixture(scope="module")
def run(tokens, tmp_path_factory):
  """The workdir of a stage."""
  folder = tmp_path_factory.mktemp("stage") / "run"
  train(configure(tokens), folder)
  return folder


def test_a_stage_knows_its_tokenizers(run, tmp_path, capsys):
  """Catches tokens whose makers are forgotten, in the workdir or the bundle."""
  bundle.export(run, tmp_path / "bundle")
  for path in (run, tmp_path / "bundle"):
    stage = mmdcodec.load(path)
    assert isinstance(stage, Stage) and stage.takes("joint")
    assert stage.target == {
      "tokenizer": "semantic", "hash": SEMANTIC.hash, "frame_rate": 25.0
    }  # fmt: skip
    joint = {"tokenizer": "mulan", "hash": JOINT.hash}
    assert stage.streams == {"joint": joint}
    assert stage.frame_rate == 25.0 and stage.seconds == 20 / 25
    assert not cli.main(["info", str(path)])
    printed = capsys.readouterr().out
    assert SEMANTIC.hash in printed and JOINT.hash in printed
  with pytest.raises(UserError, match="without codec"):
    load_music(run)


def test_a_stage_samples(run):
  """Catches a sampler without conditions or for another target."""
  stage = mmdcodec.load(run)
  codes = np.full((2, 24, 1), -1, np.int32)
  state = stage.sampler.start(codes, jax.random.split(jax.random.key(0), 2))
  while (window := stage.sampler.next_window(state, 10)) is not None:
    inputs = stage.model.no_conditions(2)
    *_, state = stage.sampler.sample_window(
      state, window, inputs, SamplingOptions()
    )
  assert state.codes.min() >= 0 and state.codes.max() < 16


def test_the_loss_after_a_reload_is_that_before(run, tokens):
  """Catches weights, averages or data that come back as others."""
  rows = metrics.read(run)
  (before,) = [row for row in rows if "valid/bits_per_frame" in row]
  task = LMTask(configure(tokens))
  found = task.evaluate(mmdcodec.load(run).variables, task.held_out())
  np.testing.assert_allclose(
    found["bits_per_frame"], before["valid/bits_per_frame"], rtol=1e-6
  )


@pytest.mark.slow
def test_training_goes_on_where_it_was(tokens, tmp_path):
  """Catches a loss that jumps when a run goes on after its evaluation."""
  config = configure(tokens, log_every=1)
  config["optimizer"] |= dict(schedule="constant", learning_rate=1e-2)
  train(config | dict(steps=4), tmp_path / "whole")
  for steps in (2, 4):
    train(config | dict(steps=steps), tmp_path / "parts")
  losses = [
    [row["train/loss"] for row in metrics.read(path) if "train/loss" in row]
    for path in (tmp_path / "whole", tmp_path / "parts")
  ]
  assert len(losses[0]) == 4 and losses[0] == losses[1]


def test_other_tokens_are_refused(run, tokens):
  """Catches a run that goes on with codes whose meaning is another."""
  config = configure(tokens, steps=4)
  for streams, words in (
    (f"joint={tokens['other']}", "mulan-b.*those of the mulan mulan-a"),
    ("", "begun with streams for joint"),
  ):
    config["data"] = {**config["data"], "streams": streams}
    with pytest.raises(UserError, match=words):
      train(config, run)


def test_two_tokenizers_for_one_stream(tokens, tmp_path):
  """Catches a condition whose codes mean now this, now that."""
  config = configure(tokens)
  both = f"joint={tokens['mulan']},joint={tokens['other']}"
  config["data"] = {**config["data"], "streams": both}
  with pytest.raises(UserError, match="mulan-b.*those of the mulan mulan-a"):
    train(config, tmp_path / "run")


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(codebooks=3), "has 2 codebooks.*joint.codebooks=2"),
    (dict(size=7), "of 8 codes.*joint.size=8"),
    (
      dict(frame_rate=50.0, frames=40),
      r"of 1 Hz.*joint.frame_rate=1.0 and .*joint.frames=1\.",
    ),
  ],
)
def test_streams_that_do_not_fit(tokens, tmp_path, changes, words):
  """Catches a stream that is found not to fit after the first steps."""
  config = configure(tokens)
  config["model"]["conditions"]["joint"] |= changes
  with pytest.raises(UserError, match=words):
    train(config, tmp_path / "run")


@pytest.mark.parametrize(
  "key, value, words",
  [
    ("target", None, "target is None"),
    ("target", {"tokenizer": "a", "hash": "b"}, "frame_rate"),
    ("target", {"tokenizer": 1, "hash": "", "frame_rate": 1.0}, "tokenizer"),
    ("streams", {"joint": "mulan"}, "streams.joint"),
  ],
)
def test_damaged_bundles(run, tmp_path, key, value, words):
  """Catches a traceback for a bundle that another program wrote."""
  bundle.export(run, tmp_path / "bundle")
  file = tmp_path / "bundle" / "config.json"
  config = json.loads(file.read_text())
  file.write_text(json.dumps({**config, key: value}))
  with pytest.raises(UserError, match=words):
    mmdcodec.load(tmp_path / "bundle")
