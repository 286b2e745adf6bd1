"""Training language models.

Must catch: a loss that counts padding or the wrong codes; a pattern that is not
in it; conditions that are never taken away; parameters that move though they
are frozen, or do not though they are not; parts that are not the whole.
"""

import functools
import json
import math
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from mmdcodec.configs import lm_small
from random_codec import write_random_codec
from random_music import random_params, word_tokenizer

import mmdcodec
from mmdcodec import bundle
from mmdcodec.convert import t5
from mmdcodec.data.tokenization import tokenize
from mmdcodec.errors import UserError
from mmdcodec.generation.musicgen import LoadedMusic
from mmdcodec.train import gradients, loop, optimizer
from mmdcodec.train.lm_task import LMTask
from mmdcodec.train.trainable import Trainable

BOOKS, SIZE, FRAMES = 3, 11, 6
DATA = pathlib.Path(__file__).parent / "data"


def make_task(**changes):
  """A task over a few codes."""
  config = lm_small.get_config("tiny").to_dict()
  config["model"] |= dict(codebooks=BOOKS, codebook_size=SIZE, frames=FRAMES)
  for key, value in changes.items():
    if isinstance(value, dict):
      config[key] = config[key] | value
    else:
      config[key] = value
  return LMTask(config)


def fresh(task=None, **changes):
  """Variables of a run, without the compiling that fresh ones take."""
  task = task or make_task(**changes)
  params = random_params(task.model, scale=0.2)
  return task.to_trained({"params": params}, jax.random.key(0))


def make_batch(task, batch=4, seed=0):
  random = np.random.default_rng(seed)
  example = task.batch_shapes(batch)
  tokens = example["conditions"]["text"]["tokens"].shape
  found = {
    "codes": random.integers(0, SIZE, (batch, FRAMES, BOOKS)),
    "lengths": random.integers(2, FRAMES + 1, batch),
    "conditions": {
      "text": {
        "tokens": random.integers(0, 256, tokens),
        "lengths": random.integers(1, 9, batch),
        "given": np.ones(batch, bool),
      }
    },
  }
  return jax.tree.map(
    lambda a, like: a.astype(like.dtype),
    found,
    {**example, "conditions": {"text": example["conditions"]["text"]}},
  )


def other_text(batch):
  """The batch with other prompts."""
  text = batch["conditions"]["text"]
  changed = {**text, "tokens": (text["tokens"] + 1) % 256}
  return {**batch, "conditions": {**batch["conditions"], "text": changed}}


def test_the_loss_against_its_definition(compile_fast):
  """Catches padding that counts, and codes asked for at the wrong step."""
  task = make_task(condition_dropout=0.0)
  state = fresh(task)
  batch = make_batch(task)
  loss, (_, _, metrics) = jax.jit(task.loss)(
    state["params"], {}, None, batch, jax.random.key(1), 0
  )
  apply = jax.jit(task.model.apply)
  nats, counts = np.zeros(BOOKS), np.zeros(BOOKS)
  for i, length in enumerate(batch["lengths"]):
    codes = batch["codes"][i, :length]
    # Alone, without its padding, one code at a time.
    pattern = task.model.pattern_of(int(length))
    tokens = pattern.build(codes, SIZE)[None]
    inputs = jax.tree.map(lambda a, i=i: a[i : i + 1], batch["conditions"])
    logits = apply({"params": state["params"]}, tokens, inputs)[0]
    share = np.float64(jax.nn.log_softmax(logits))
    for step, entries in enumerate(pattern.steps):
      for frame, k in entries:
        nats[k] -= share[step, k, codes[frame, k]]
        counts[k] += 1
  want = nats / counts
  np.testing.assert_allclose(metrics["cross_entropy"], want, rtol=1e-5)
  np.testing.assert_allclose(loss, want.mean(), rtol=1e-5)
  np.testing.assert_allclose(
    metrics["bits_per_frame"], want.sum() / math.log(2), rtol=1e-5
  )
  # Evaluation of two batches is that of all of their codes.
  more = make_batch(task, seed=1)
  both = jax.tree.map(lambda *x: np.concatenate(x), batch, more)
  one = task.evaluate(state, [batch, more])
  two = task.evaluate(state, [both])
  for name in one:
    np.testing.assert_allclose(one[name], two[name], rtol=1e-5)


def test_conditions_are_taken_away(compile_fast):
  """Catches a share of the examples that is not the one that was asked for."""
  batch = make_batch(make_task(), batch=64)
  other = other_text(batch)

  def differs(**changes):
    task = make_task(**changes)
    params = fresh(task)["params"]
    loss = jax.jit(lambda batch: task.loss(
      params, {}, None, batch, jax.random.key(1), 0
    )[0])  # fmt: skip
    return float(loss(batch)) != float(loss(other))

  assert differs(condition_dropout=0.0) and differs(condition_dropout=0.8)
  assert not differs(condition_dropout=1.0)
  assert not differs(condition_dropout=0.0, text_dropout=1.0)


def test_melodies_are_conditions(compile_fast):
  """Catches melodies that do not reach the model, or are never taken away."""
  heard = dict(classes=12, frames=5, rate=32_000, window=16_384, hop=4096)
  text = lm_small.get_config("tiny").model.conditions.text.to_dict()
  model = dict(conditions={"text": text, "melody": heard}, cross=False)
  make = lambda **changes: make_task(
    model=model, condition_dropout=0.0, **changes
  )
  task = make()
  batch = make_batch(task, batch=16)
  melody = {"classes": np.ones((16, 5), np.int32), "given": np.ones(16, bool)}
  batch["conditions"]["melody"] = melody
  changed = {**melody, "classes": melody["classes"] + 3}
  conditions = {**batch["conditions"], "melody": changed}
  other = {**batch, "conditions": conditions}
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert shapes(task.batch_shapes(16)) == shapes(batch)
  params = fresh(task)["params"]

  def differs(share):
    loss = jax.jit(lambda batch: make(melody_dropout=share).loss(
      params, {}, None, batch, jax.random.key(1), 0
    )[0])  # fmt: skip
    return float(loss(batch)) != float(loss(other))

  assert differs(0.0) and differs(0.5) and not differs(1.0)
  with pytest.raises(UserError, match="model.conditions.melody"):
    make_task(model=dict(conditions={"melody": heard | dict(hop=1)}))


def flat(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def test_what_is_trained():
  """Catches additions that change the model at the start, or do not fit."""
  params = fresh()["params"]
  trained, rest = Trainable(freeze="text_encoder").split(
    params, jax.random.key(1)
  )
  assert all("text_encoder" in path for path in flat(rest["frozen"]))
  assert not any("text_encoder" in path for path in flat(trained))
  again = Trainable(freeze="text_encoder").join(trained, rest)
  assert jax.tree.all(jax.tree.map(jnp.array_equal, again, params))

  lora = Trainable(rank=2, alpha=8.0)
  trained, rest = lora.split(params, jax.random.key(1))
  whole = lora.join(trained, rest)
  assert jax.tree.all(jax.tree.map(jnp.array_equal, whole, params))
  assert all(path.startswith("lora/transformer") for path in flat(trained))
  # Against the definition, for each kernel of each block.
  random = np.random.default_rng(0)
  trained = jax.tree.map(lambda x: random.normal(size=x.shape), trained)
  whole, before = flat(lora.join(trained, rest)), flat(params)
  changed = {k for k in whole if np.any(whole[k] != before[k])}
  assert changed == {
    k for k in before if "transformer/blocks/" in k and "kernel" in k
  }
  for path in ("attention/out", "cross_attention/query", "inner"):
    path = f"transformer/blocks/{path}/kernel"
    a, b = (flat(trained)[f"lora/{path}/{name}"] for name in "ab")
    for i in range(2):
      want = 4 * (a[i] @ b[i]).reshape(before[path][i].shape)
      np.testing.assert_allclose(
        whole[path][i] - before[path][i], want, atol=1e-4
      )
  with pytest.raises(UserError, match="nothing is left"):
    Trainable(freeze="").split({}, jax.random.key(0))
  with pytest.raises(UserError, match="nothing is left"):
    Trainable(rank=1, on="nowhere").split(params, jax.random.key(0))


def test_decay_spares_norms_and_biases():
  """Catches decay of stacked norms, which have two axes as kernels have."""
  params = fresh(model=dict(positions="relative"))["params"]
  config = lm_small.get_config("tiny").optimizer.to_dict()
  tx, _ = optimizer.make_optimizer(
    config | dict(weight_decay=0.5, schedule="constant", warmup=0), 10
  )
  ones = jax.tree.map(jnp.ones_like, params)
  zeros = jax.tree.map(jnp.zeros_like, params)
  moved = flat(jax.jit(tx.update)(zeros, tx.init(ones), ones)[0])
  still = {path for path, x in moved.items() if not np.any(x)}
  assert still == {
    path for path in moved if path.split("/")[-1] in ("scale", "bias")
    or "distance_bias" in path
  }  # fmt: skip
  assert any("blocks" in path for path in still)


def test_parts_of_a_batch(compile_fast):
  """Catches parts that are summed, left out, or drawn with one key.

  And parts that count alike although they have more and less padding.
  """
  task = make_task(condition_dropout=0.0)
  params = fresh(task)["params"]
  batch = make_batch(task, batch=8)
  assert len({*batch["lengths"]}) > 2
  loss = lambda *given: task.loss(*given, 0)

  @functools.partial(jax.jit, static_argnums=0)
  def take(parts):
    return gradients.in_parts(
      loss,
      params,
      {},
      None,
      batch,
      jax.random.key(2),
      parts=parts,
      weigh=task.weigh,
    )

  (whole, (_, _, metrics)), grads = take(1)
  (value, (_, _, found)), parts = take(4)
  np.testing.assert_allclose(value, whole, rtol=1e-5)
  np.testing.assert_allclose(
    found["bits_per_frame"], metrics["bits_per_frame"], rtol=1e-5
  )
  for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(parts), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.fixture(scope="module")
def tokens(dataset, model, tmp_path_factory):
  """Codes of the test music."""
  folder = tmp_path_factory.mktemp("tokens") / "tokens"
  tokenize(dataset, folder, mmdcodec.load(model))
  return folder


def configure(model, tokens, **changes):
  """A tiny run on them."""
  config = lm_small.get_config("tiny").to_dict()
  codec = mmdcodec.load(model)
  config["model"] |= dict(
    codebooks=codec.codebooks, codebook_size=codec.model.codebook_size
  )
  config |= dict(codec=str(model), **changes)
  config["data"] |= dict(
    train=str(tokens), valid=str(tokens), frame_rate=codec.frame_rate
  )
  return config


@pytest.mark.slow
def test_a_run(tmp_path, model, dataset, tokens, compile_fast):
  """Catches a run that does not learn, go on, or become a music model."""
  config = configure(model, tokens, steps=40)
  config["optimizer"] |= dict(learning_rate=3e-3)
  quiet = dict(log=lambda line: None)
  last = loop.train(config, tmp_path / "run", **quiet)
  rows = [
    json.loads(line)
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  ]
  first = next(row for row in rows if "valid/bits_per_frame" in row)
  assert last["valid/bits_per_frame"] < first["valid/bits_per_frame"] - 0.2
  music = mmdcodec.load(tmp_path / "run")
  assert isinstance(music, LoadedMusic)
  y = music.generate(["tune number 1"], seconds=0.2)
  assert y.shape == (1, round(0.2 * music.rate), 1) and np.isfinite(y).all()

  # Codes of another codec, of the same number and size, with and without it.
  write_random_codec(tmp_path / "codec", 9, dilations=(1,))
  tokenize(dataset, tmp_path / "codes", mmdcodec.load(tmp_path / "codec"))
  for codec in ("", str(tmp_path / "codec")):
    other = config | dict(codec=codec, steps=50)
    codes = str(tmp_path / "codes")
    other["data"] = config["data"] | dict(train=codes, valid=codes)
    with pytest.raises(UserError, match="another codec"):
      loop.train(other, tmp_path / "run", **quiet)
  # A music model has a codec too.
  assert bundle.load_codec(tmp_path / "run").hash == music.codec.hash

  # From there on, adapters alone; the text encoder and all else stays.
  tuned = config | dict(steps=4, init_from=str(tmp_path / "run"), ema=0.0)
  tuned["lora"] = tuned["lora"] | dict(rank=2)
  tuned["optimizer"] = tuned["optimizer"] | dict(learning_rate=1e-2)
  loop.train(tuned, tmp_path / "tuned", **quiet)
  other = mmdcodec.load(tmp_path / "tuned")
  before, after = flat(music.variables), flat(other.variables)
  changed = {k for k in before if np.any(before[k] != after[k])}
  assert changed and all("transformer/blocks" in path for path in changed)


def public_t5(tmp_path, model, tokens):
  """A run that begins with a T5, which lacks its tokenizer.

  Returns:
    (folder of the T5, its variables, config of the run).
  """
  folder = tmp_path / "t5"
  folder.mkdir()
  arrays = dict(np.load(DATA / "t5enc_tiny.npz"))
  weights = {k[2:]: a for k, a in arrays.items() if k.startswith("w/")}
  public = json.loads((DATA / "t5enc_tiny.json").read_text())
  fields, variables = t5.convert(weights, public)
  safetensors.numpy.save_file(weights, folder / "model.safetensors")
  (folder / "config.json").write_text(json.dumps(public | {"model_type": "t5"}))
  config = configure(model, tokens, steps=4, init_from=str(folder))
  text = {"tokenizer": "t5", "longest": 64, "encoder": fields}
  config["model"]["conditions"] = {"text": text}
  config |= dict(freeze="conditioner/text_encoder", ema=0.5)
  # Cut over devices: what comes with the T5 is put among it.
  config["mesh"] = dict(data=1, fsdp=4, model=2)
  return folder, variables, config


@pytest.mark.slow
def test_a_public_t5_to_begin_with(tmp_path, model, tokens, compile_fast):
  """Catches a T5 that is not taken, or is trained."""
  folder, variables, config = public_t5(tmp_path, model, tokens)
  (folder / "tokenizer.json").write_text(word_tokenizer())
  loop.train(config, tmp_path / "run", log=lambda line: None)
  music = mmdcodec.load(tmp_path / "run")
  encoder = music.variables["params"]["conditioner"]["text_encoder"]
  chex.assert_trees_all_equal(encoder, variables["params"])
  assert music.generate_codes(["tune number 1"], seconds=0.05).size
  # It goes on without the T5 that it began with.
  shutil.rmtree(folder)
  more = config | {"steps": config["steps"] + 1}
  loop.train(more, tmp_path / "run", log=lambda line: None)


def test_a_t5_that_does_not_fit(tmp_path, model, tokens):
  """Catches a T5 without its tokenizer, or of another width."""
  folder, _, config = public_t5(tmp_path, model, tokens)
  quiet = dict(log=lambda line: None)
  with pytest.raises(UserError, match="tokenizer.json"):
    loop.train(config, tmp_path / "run", **quiet)
  (folder / "tokenizer.json").write_text(word_tokenizer())
  text = config["model"]["conditions"]["text"]
  text["encoder"] = {**text["encoder"], "width": 32}
  with pytest.raises(UserError, match="expected .*'width': "):
    loop.train(config, tmp_path / "other", **quiet)


def test_mistakes(tmp_path, model, tokens, dataset, compile_fast):
  """Catches data that does not belong to the model, found too late or never."""

  def fails(words, **changes):
    config = configure(model, tokens)
    for key, value in changes.items():
      config[key] = (
        {**config[key], **value} if isinstance(value, dict) else (value)
      )
    with pytest.raises(UserError, match=words):
      loop.train(config, tmp_path / "run", log=lambda line: None)

  fails("codebook_size", model=dict(codebook_size=7))
  fails("frame_rate", data=dict(frame_rate=1.0))
  fails("no training data", data=dict(train=""))
  fails("tokenize", data=dict(train=str(dataset)))
  fails("condition_dropout", condition_dropout=1.5)
  fails("accumulate", accumulate=3)
  fails("accumulate", accumulate=0)
  fails("lora.rank", lora=dict(rank=-1))
  fails("freeze", freeze="(")
