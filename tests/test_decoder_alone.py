"""Training a decoder alone: the codes stay, and language models over them."""

import jax
import numpy as np
import pytest
from training_runs import SPECTRAL

from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.train import config_files, loop, settings
from mmdcodec.train.task import make_task


def config_of(dataset, *more):
  config = config_files.parse([*SPECTRAL, *more])
  config.data.train = str(dataset)
  config.optimizer.warmup = config.quantizer_start = 0
  config.steps = config.save_every = config.eval_every = 2
  return config


def flat(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.slow
def test_the_codes_stay(tmp_path, dataset):
  """Catches an encoder, norm or codebook that moves, and a lost encoder."""
  first, second = tmp_path / "first", tmp_path / "second"
  loop.train(config_of(dataset), first, log=lambda _: None)
  config = config_of(dataset, f"--config.init_from={first}")
  config.freeze, config.data.valid = "encoder", str(dataset)
  config.losses.independence.weight = 1.0
  loop.train(config, second, log=lambda _: None)
  bundle.export(second, tmp_path / "bundle", dtype="bfloat16")

  before, after = bundle.load_codec(first), bundle.load_codec(second)
  old, new = flat(before.variables), flat(after.variables)
  assert old.keys() == new.keys()
  changed = {path for path in old if not np.array_equal(old[path], new[path])}
  assert changed and all(path.startswith("params/decoder") for path in changed)
  x = np.random.default_rng(0).normal(0, 0.1, (1, before.rate, 1))
  codes = before.encode(x.astype(np.float32))
  np.testing.assert_array_equal(after.encode(x.astype(np.float32)), codes)
  assert not np.array_equal(after.decode(codes), before.decode(codes))
  # Token sets and models over the codes go on with it ...
  assert after.hash == before.hash
  # ... but not with one whose encoder was rounded.
  assert bundle.load_codec(tmp_path / "bundle").hash != before.hash

  # A run keeps to what it trains.
  config.freeze = ""
  with pytest.raises(UserError, match="freeze"):
    loop.train(config, second, log=lambda _: None)


def test_what_cannot_stay(dataset):
  """Catches an untrained encoder that is never trained."""
  config = config_of(dataset)
  config.freeze = "encoder"
  with pytest.raises(UserError, match="set init_from"):
    make_task(settings.plain(config))
  config.init_from, config.quantizer_start = "small", 10
  with pytest.raises(UserError, match="quantizer_start"):
    make_task(settings.plain(config))
