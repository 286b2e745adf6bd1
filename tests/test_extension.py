"""What a user adds without a change to the package: `extension/`.

A tokenizer, a condition of language models and a task, each in a short file.

Must catch: a place in the package that knows kinds by their names, and so has
to change for each new one.
"""

import json
import math
import pathlib

import numpy as np
import pytest
from extension.words import Words
from mmdcodec.configs import lm_small

import mmdcodec
from mmdcodec import bundle
from mmdcodec.cli import main as cli
from mmdcodec.data.tokenization import tokenize
from mmdcodec.errors import UserError
from mmdcodec.train import loop

FOLDER = pathlib.Path(__file__).parent / "extension"


@pytest.fixture(scope="module")
def loudness(dataset, tmp_path_factory) -> str:
  """A token data set of the new tokenizer, whose bundle the command opens."""
  folder = tmp_path_factory.mktemp("loudness")
  config = {"kind": "loudness", "model": {"step": 4.0}}
  bundle.save(folder / "bundle", config, {"params": {"none": np.zeros(1)}})
  argv = ["tokenize", dataset, folder / "tokens", "--model", folder / "bundle"]
  with pytest.MonkeyPatch.context() as patch:
    loader = "extension.loudness:Loudness"
    patch.setitem(bundle.LOADERS, "loudness", loader)
    assert not cli.main([str(word) for word in argv])
  return str(folder / "tokens")


def test_extensions_are_short():
  """Catches an interface that asks for too much."""
  for file in FOLDER.glob("*.py"):
    assert len(file.read_text().splitlines()) <= 60, file


@pytest.mark.usefixtures("all_devices")
def test_a_task_on_tokens_of_a_new_tokenizer(tmp_path, loudness, capsys):
  """Catches a task or a tokenizer that only the package can name."""
  assert not cli.main(["info", loudness])
  assert "loudness" in capsys.readouterr().out
  run = tmp_path / "run"
  command = ["train", f"--config={FOLDER / 'bigram.py'}", f"--workdir={run}"]
  assert not cli.main([*command, f"--config.data.train={loudness}"])
  lines = (run / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  losses = [row["train/loss"] for row in rows if "train/loss" in row]
  np.testing.assert_allclose(losses[0], math.log(16), rtol=1e-6)
  assert len(losses) == 2 and losses[1] < losses[0]
  assert rows[-1]["valid/nats"] < losses[0]
  found = bundle.read(run)
  assert found.config["kind"] == "bigram"
  assert np.any(found.variables["params"]["table"])


def test_conditions_of_a_new_kind(tmp_path, model, dataset, loudness):
  """Catches a kind that is not trained, kept in a bundle or asked for.

  Beside it the tokens of the new tokenizer, as a condition.
  """
  codec = mmdcodec.load(model)
  tokenize(dataset, tmp_path / "tokens", codec)
  config = lm_small.get_config("tiny").to_dict()
  config["model"] |= dict(
    codebooks=codec.codebooks,
    codebook_size=codec.codebook_size,
    conditions={
      "topic": dict(kind="words", known=("tune", "song", "1")),
      "loudness": dict(kind="tokens", size=16, frames=5, frame_rate=40.0),
    },
  )
  config |= dict(steps=2, codec=model)
  config["optimizer"] |= dict(warmup=1, learning_rate=1e-2)
  config["data"] |= dict(
    train=str(tmp_path / "tokens"),
    frame_rate=codec.frame_rate,
    streams=f"loudness={loudness}",
  )
  loop.train(config, tmp_path / "run", log=lambda line: None)
  bundle.export(tmp_path / "run", tmp_path / "bundle")
  music = mmdcodec.load(tmp_path / "bundle")
  topic = next(each for each in music.conditions if each.name == "topic")
  assert isinstance(topic, Words) and topic.known == ("tune", "song", "1")

  def make(**conditions):
    return music.generate_codes(
      seconds=0.05, guidance=10.0, conditions=conditions
    )

  plain = make()
  assert np.any(make(topic=[["song"]]) != plain)
  assert np.any(make(loudness=[[15, 0]]) != plain)
  np.testing.assert_array_equal(make(topic=[[]]), plain)
  with pytest.raises(UserError, match="piano"):
    make(topic=[["piano"]])
