"""Training a decoder alone: the codes stay, and language models over them."""

import jax
import numpy as np
import pytest
from random_codec import write_random_codec
from training_runs import SPECTRAL

from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.store import workdir as run_files
from mmdcodec.tokenizers import loaded_codec
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
  evaluated = []
  loop.train(
    config, second, log=lambda _: None,
    on_evaluation=lambda step, variables: evaluated.append(variables),
  )  # fmt: skip
  assert flat(evaluated[0]).keys() == flat(bundle.read(first).variables).keys()
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
  # The decoder hears in training what it is to decode: latents that are
  # normalised as in encoding, not by the batch.
  out, _ = after.model.apply(
    after.variables, x.astype(np.float32), train=True, mutable=[],
    rngs={"quantize": jax.random.key(0)},
  )  # fmt: skip
  np.testing.assert_array_equal(out.codes, codes)
  # Token sets and models over the codes go on with it ...
  assert after.hash == before.hash
  # ... but not with one whose encoder was rounded.
  assert bundle.load_codec(tmp_path / "bundle").hash != before.hash

  # A run keeps to what it trains.
  config.freeze = ""
  with pytest.raises(UserError, match="freeze"):
    loop.train(config, second, log=lambda _: None)


@pytest.fixture
def tiny(tmp_path):
  """A codec's bundle, as (config, variables)."""
  write_random_codec(tmp_path / "codec", 0)
  return bundle.read_codec(tmp_path / "codec")


def changed(variables, part):
  """The variables with other numbers in a part of the parameters."""
  params = dict(variables["params"])
  params[part] = jax.tree.map(lambda x: x + 1, params[part])
  return {**variables, "params": params}


def test_the_hash_is_that_of_the_codes(tiny, tmp_path):
  """Catches a hash that is claimed for other codes, or lost on the way."""
  config, variables = tiny
  before = loaded_codec.fingerprint(config, variables)
  further = {**config["model"], "threshold": 7.0, "dtype": "bfloat16"}
  codes = loaded_codec.codes_of(config, variables, further)
  new = {**config, "model": further, "codes": codes}
  hash_of = lambda config, part: loaded_codec.fingerprint(
    config, changed(variables, part)
  )
  assert hash_of(new, "decoder") == before != hash_of(config, "decoder")
  assert hash_of(new, "encoder") != before
  # A codec that begins from this one keeps it too; so does one in a bundle.
  again = loaded_codec.codes_of(new, changed(variables, "decoder"), further)
  assert again == codes
  bundle.save(tmp_path / "new", new, changed(variables, "decoder"))
  assert bundle.load_codec(tmp_path / "new").hash == before
  for broken in ("x", {}, {**codes, "hash": "../x"}, {**codes, "hash": None}):
    assert hash_of({**new, "codes": broken}, "decoder") != before


def test_another_model_is_refused(dataset, tmp_path, tiny):
  """Catches settings with the same weights and other codes."""
  fields = tiny[0]["model"]
  config = settings.plain(config_of(dataset))
  config |= {"freeze": "encoder", "init_from": str(tmp_path / "codec")}
  config["model"] = {**fields, "threshold": 7.0}
  make_task(config).record_parts(tmp_path)
  assert run_files.read_codes(tmp_path)
  config["model"]["causal"] = not fields["causal"]
  with pytest.raises(UserError, match="causal of the model differ"):
    make_task(config).record_parts(tmp_path)


def test_what_cannot_stay(dataset):
  """Catches an untrained encoder that is never trained."""
  config = config_of(dataset)
  config.freeze = "encoder"
  with pytest.raises(UserError, match="set init_from"):
    make_task(settings.plain(config))
  config.init_from, config.quantizer_start = "small", 10
  with pytest.raises(UserError, match="quantizer_start"):
    make_task(settings.plain(config))
