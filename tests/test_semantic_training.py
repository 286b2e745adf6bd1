"""Training the semantic tokenizer."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmdcodec
from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules
from mmdcodec.store import metrics
from mmdcodec.train import config_checks, config_files, loop
from mmdcodec.train.task import make_task


def sounds(batch, samples, seed=0):
  """A batch whose clips end at different places."""
  random = np.random.default_rng(seed)
  x = 0.2 * random.standard_normal((batch, samples, 1))
  x *= random.uniform(0, 1, (batch, samples // 400, 1)).repeat(400, axis=1)
  lengths = random.integers(samples // 2, samples + 1, batch)
  return {
    "audio": x.astype(np.float32),
    "lengths": lengths.astype(np.int32),
  }


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["w2v_bert", "best_rq"])
def test_many_devices_are_one(objective):
  """Catches masks, distractors or means of a part of the batch."""
  arg = "tiny" + ("_best_rq" if objective == "best_rq" else "")
  config = config_files.parse([f"--config=semantic:{arg}"])
  config.data.seconds, config.model.dropout = 0.5, 0.1
  task = make_task(config.to_dict())
  assert task.model.objective == objective
  batch = sounds(8, 4000)

  def run(shape):
    mesh = mesh_lib.make_mesh(
      shape, jax.devices()[: np.prod([*shape.values()])]
    )

    def step(variables, batch, key):
      params = variables.pop("params")
      extra = task.init_extra_state(key)
      (_, (_, _, found)), grads = jax.value_and_grad(task.loss, has_aux=True)(
        params, variables, extra, batch, key, jnp.int32(3)
      )
      return found, grads

    key = jax.random.key(1)
    with jax.set_mesh(mesh):
      shapes = jax.eval_shape(task.init, key)
      layout = rules.shardings(shapes, mesh, task.rules)
      variables = jax.jit(task.init, out_shardings=layout)(key)
      placed = mesh_lib.place(batch, mesh)
      return jax.device_get(jax.jit(step)(variables, placed, key))

  one, many = run(dict(data=1)), run(dict(data=2, fsdp=2, model=2))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
  assert 0 < one[0]["masked"] < 1
  assert all(np.any(g) for g in jax.tree.leaves(one[1]["front"]))


def test_parts_of_a_batch_count_by_their_frames(compile_fast):
  """Catches parts that count alike although they have more and less padding.

  With everything masked and no noise, nothing is random.
  """
  config = config_files.parse(["--config=semantic:tiny_best_rq"])
  config.model.dropout, config.masking.share, config.masking.noise = 0, 1.0, 0
  task = make_task(config.to_dict())
  variables = jax.jit(task.init)(jax.random.key(0))
  params, extra = variables.pop("params"), task.init_extra_state(None)
  batch = sounds(4, 4000)
  batch["lengths"][:] = 4000, 3000, 800, 600
  loss = jax.jit(
    lambda batch: task.loss(
      params, variables, extra, batch, jax.random.key(1), jnp.int32(3)
    )[0]
  )
  halves = [{k: x[i : i + 2] for k, x in batch.items()} for i in (0, 2)]
  values = [loss(half) for half in halves]
  mean = np.average(values, weights=[task.weigh(half) for half in halves])
  np.testing.assert_allclose(mean, loss(batch), rtol=1e-5)
  assert abs(values[0] - values[1]) > 0.01


def test_rules_match_and_cut_what_is_large():
  """Catches a rule that matches nothing, or a large array left whole."""
  task = make_task(config_files.parse(["--config=semantic"]).to_dict())
  variables = jax.eval_shape(task.init, jax.random.key(0))
  mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 4, "model": 2})
  layout = rules.shardings(variables, mesh, task.rules)
  paths = jax.tree_util.tree_flatten_with_path(variables)[0]
  names = [rules.path_name(path) for path, _ in paths]
  size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert 0.58e9 < size < 0.6e9
  for pattern, _ in rules.SEMANTIC_RULES:
    assert any(re.search(pattern, name) for name in names), pattern
  for name, (_, leaf), sharding in zip(
    names, paths, jax.tree.leaves(layout), strict=True
  ):
    if leaf.size >= 2**20:
      part = sharding.shard_shape(leaf.shape)
      assert np.prod(part) * mesh.size == leaf.size, name


@pytest.mark.usefixtures("all_devices")
@pytest.mark.slow
def test_a_run(tmp_path, dataset):
  """Catches a loss that does not fall, and a run that makes no tokenizer.

  The statistics are those of the data, and a resumed run keeps them.
  """
  config = config_files.parse(["--config=semantic:tiny_best_rq"])
  config.data.train = config.data.valid = str(dataset)
  config.steps, config.log_every = 20, 1
  loop.train(config, tmp_path / "run", log=lambda line: None)
  config.steps = 40
  loop.train(config, tmp_path / "run", log=lambda line: None)
  rows = [row for row in metrics.read(tmp_path / "run") if "train/loss" in row]
  losses = [row["train/loss"] for row in rows]
  assert len(losses) == 40
  assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
  assert rows[-1]["train/perplexity"] > 4
  assert rows[-1]["train/steps_of_guessing"] < 40
  bundle.export(tmp_path / "run", tmp_path / "bundle")
  tokenizer = mmdcodec.load(tmp_path / "bundle")
  assert tokenizer.kind == "semantic" and tokenizer.frame_rate == 25
  statistics = tokenizer.variables["statistics"]
  assert np.all(statistics["mean"] < 0) and np.all(statistics["deviation"] > 1)
  with pytest.raises(UserError, match="mmdcodec cluster"):
    tokenizer.encode(np.zeros(100))


def test_warnings():
  """Catches a collapse that nobody is told of."""
  config = config_files.parse(["--config=semantic:small"]).to_dict()
  task = make_task(config)
  good = {"train/perplexity": 400.0, "train/steps_of_guessing": 20.0}
  assert not task.warnings(good)
  (warning,) = task.warnings(good | {"train/perplexity": 3.0})
  assert "collapsed" in warning and "diversity" in warning
  (warning,) = task.warnings(good | {"train/steps_of_guessing": 2000.0})
  assert "guessing" in warning
  config["masking"]["kind"] = "holes"
  with pytest.raises(UserError, match="masking.kind"):
    config_checks.check(config)
