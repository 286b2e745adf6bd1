"""A task of a user's own, and names of earlier versions."""

import json

import numpy as np
import pytest

from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.store import metrics, renamed, workdir
from mmdcodec.train import config_files, loop
from mmdcodec.train.task import make_task

# A linear model of two numbers, complete in one file.
FILE = '''
"""Fits y = a x + b."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from mmdcodec.configs.common import run_config
from mmdcodec.train.task import Task


class Points:
  """Points of y = 2 x + 1."""

  def __init__(self, batch, seed):
    self.batch, self.seed, self.index = batch, seed, 0

  def __next__(self):
    x = np.random.default_rng((self.seed, self.index)).normal(size=self.batch)
    self.index += self.batch
    return {"x": x.astype(np.float32), "y": (2 * x + 1).astype(np.float32)}

  def get_state(self):
    return {"index": self.index}

  def set_state(self, state):
    self.index = state["index"]

  def close(self):
    pass


class Line(Task):
  """Two parameters, and nothing of audio."""

  kind, rules, audio_seconds = "line", [(".*", PartitionSpec())], 1.0

  def batches(self, *, seed):
    return Points(self.config["batch"], seed)

  def batch_shapes(self, batch):
    return dict.fromkeys("xy", jax.ShapeDtypeStruct((batch,), jnp.float32))

  def init(self, key):
    return {"params": {"a": jnp.zeros(()), "b": jnp.zeros(())}}

  def loss(self, params, collections, extra, batch, key, step, phase=None):
    error = params["a"] * batch["x"] + params["b"] - batch["y"]
    return jnp.mean(error**2), (collections, extra, {})


def get_config(arg=""):
  config = run_config(f"{__file__}:Line")
  config.batch, config.steps, config.log_every = 8, 2, 1
  config.ema = 0.0
  config.optimizer.rate = 0.125  # its name in earlier versions
  config.optimizer.name = "sgd"
  return config
'''


def test_a_task_outside_the_package(tmp_path):
  """Catches a task that only this package can name, train, resume or save."""
  file, run = tmp_path / "line.py", tmp_path / "run"
  file.write_text(FILE)
  for steps in (2, 3):
    config = config_files.parse([f"--config={file}", f"--config.steps={steps}"])
    loop.train(config, run, log=lambda line: None)
  rows = [row for row in metrics.read(run) if "train/loss" in row]
  assert [row["step"] for row in rows] == [1, 2, 3]
  assert rows[2]["train/loss"] < 0.9 * rows[0]["train/loss"]
  assert rows[0]["train/learning_rate"] == 0.125
  # Its kind and its weights can be read without the file of the task.
  file.unlink()
  assert bundle.export(run, tmp_path / "bundle") == 3
  found = bundle.read(tmp_path / "bundle")
  assert found.config["kind"] == "line"
  assert 0 < found.variables["params"]["b"]
  with pytest.raises(UserError, match="'line'"):
    bundle.load(run)


@pytest.mark.parametrize(
  "name, words",
  [
    ("piano", "codec, lm"),
    ("no.such.module:Task", "cannot be imported"),
    ("mmdcodec.train.loop:Task", "cannot be imported"),
    ("missing.py:Task", "missing.py"),
    ("mmdcodec.train.loop:train", "subclass"),
  ],
)
def test_no_such_task(name, words):
  """Catches a traceback where a name is wrong."""
  with pytest.raises(UserError, match=words):
    make_task({"task": name})


def test_names_of_earlier_versions(tmp_path):
  """Catches a key of an earlier version that is refused or without effect."""
  config = config_files.parse(
    [
      "--config=codec_small",
      "--config.optimizer.rate=0.25",
      "--config.adversarial.optimizer.rate=0.125",
    ]
  )
  assert config.optimizer.learning_rate == 0.25
  assert config.adversarial.optimizer.learning_rate == 0.125
  old = {"task": "lm", "optimizer": {"rate": 1.0}}
  old["lora"] = {"rank": 4, "alpha": 16.0}
  (tmp_path / "config.json").write_text(json.dumps(old))
  assert workdir.read_config(tmp_path)["optimizer"] == {"learning_rate": 1.0}
  # Such a version wrote no run.json.
  info = workdir.read_info(tmp_path)
  assert info.kind == "lm" and info.parts == ("codec",)
  assert info.best_metric == "valid/bits_per_frame"
  np.testing.assert_equal(info.low_rank_scale, 4.0)


def test_old_names_are_those_of_the_package_alone():
  """Catches fields of a user's own model taken for old ones of TokenLM."""
  model = {"codebook_size": 8, "heads": 2, "normalize": True, "text": "rock"}
  config = {"task": "mine.py:Mine", "model": dict(model)}
  renamed.update(config)
  assert config["model"] == model
  # Some fields of a TokenLM, none of them a condition.
  config = {"task": "lm", "model": {"codebook_size": 8, "heads": 2}}
  renamed.update(config)
  assert config["model"] == {"codebook_size": 8, "heads": 2}
  config["model"]["key_heads"] = 1
  renamed.update(config)
  assert config["model"] == {"codebook_size": 8, "heads": 2, "kv_heads": 1}
