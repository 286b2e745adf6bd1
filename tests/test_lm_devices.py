"""Training language models on many devices, there or described."""

import re

import jax
import numpy as np
import pytest
from random_music import random_params

from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules
from mmdcodec.parallel.analysis import account
from mmdcodec.train import compile as ahead
from mmdcodec.train import config_files, optimizer, program
from mmdcodec.train.state import TrainState
from mmdcodec.train.task import make_task

TINY = "--config=musicgen:tiny"


def two_steps(config, shape):
  """Losses and parameters of two steps on a mesh."""
  config = config.to_dict()
  count = int(np.prod(list(shape.values())))
  mesh = mesh_lib.make_mesh(shape, jax.devices()[:count])
  task = make_task(config)
  made = program.make_program(task, config, mesh)
  adam, _ = optimizer.make_optimizer(config["optimizer"], config["steps"])
  params = random_params(task.model, scale=0.2)
  make = lambda params: TrainState.create({"params": params}, adam, ema=True)
  random, losses = np.random.default_rng(0), []
  with jax.set_mesh(mesh):
    state = jax.jit(make, out_shardings=made.layout)(params)
    for _ in range(2):
      batch = jax.tree.map(
        lambda x: random.integers(1, 30, x.shape).astype(x.dtype),
        task.batch_shapes(config["batch"]),
      )
      state, metrics = made.step(state, mesh_lib.place(batch, mesh))
      losses.append(metrics["loss"])
  return np.array(losses), jax.device_get(state.params)


def test_many_devices_are_one(compile_fast):
  """Catches sums over a part of the batch, and parts that do not fit together.

  With dropout, conditions that are taken away, and a batch in two parts.
  """
  config = config_files.parse(
    [TINY, "--config.model.dropout=0.1", "--config.accumulate=2"]
  )
  config.optimizer.warmup = 0
  losses, params = two_steps(config, dict(data=1))
  found = two_steps(config, dict(data=2, fsdp=2, model=2))
  assert losses[0] != losses[1]
  np.testing.assert_allclose(found[0], losses, rtol=1e-5)
  for one, other in zip(
    jax.tree.leaves(found[1]), jax.tree.leaves(params), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_rules_match_and_cut_what_is_large():
  """Catches a rule that matches nothing, or a large array left whole."""
  task = make_task(config_files.parse(["--config=musicgen"]).to_dict())
  variables = jax.eval_shape(task.init, jax.random.key(0))
  mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 4, "model": 2})
  layout = rules.shardings(variables, mesh, rules.LM_RULES)
  paths = jax.tree_util.tree_flatten_with_path(variables)[0]
  names = [rules.path_name(path) for path, _ in paths]
  for pattern, _ in rules.LM_RULES:
    assert any(re.search(pattern, name) for name in names), pattern
  for name, (_, leaf), sharding in zip(
    names, paths, jax.tree.leaves(layout), strict=True
  ):
    if leaf.size >= 2**20:
      part = sharding.shard_shape(leaf.shape)
      assert np.prod(part) * mesh.size == leaf.size, name


@pytest.mark.slow
def test_the_step_on_a_tpu_slice(optimized):
  """Catches attention that is not splash, and a device that gets too much.

  Tables of tokens are cut along the width. The compiler is free to go on so,
  with all items' activations on every chip, summed in every layer.
  """
  pytest.importorskip("libtpu")
  # A prime number of items for each of two halves: nothing else has this size.
  # One codebook compiles in a third of the time.
  config = config_files.parse(
    [TINY, "--config.model.frames=1100", "--config.model.codebooks=1"]
  )
  config.batch, config.mesh = 14, dict(data=1, fsdp=2, model=2)
  config.model.activation, config.ema = "relu", 0.0
  text = ahead.plan(config, "v5e:2x2").lowered.compile().as_text()
  for kernel in ("fwd", "dq", "dkv"):
    assert f"splash_mha_{kernel}" in text
  reduced = re.findall(r" = (.*?) all-reduce(?:-start)?\(", text)
  assert reduced
  assert not [shape for shape in reduced if "[14," in shape]
  # Logits of a half of the batch, and never of all of it.
  assert re.search(r"f32\[7,1100,(1,)?32\]", text)
  assert not re.search(r"f32\[14,1100,(1,)?32\]", text)


@pytest.mark.slow
def test_sampling_on_a_tpu_slice(optimized):
  """Catches a loop that TPUs refuse, and a state that is not divided."""
  pytest.importorskip("libtpu")
  config = config_files.parse([TINY, "--config.model.layers=1"])
  config.batch, config.mesh = 8, dict(data=1, fsdp=2, model=2)
  found = account(ahead.plan(config, "v5e:2x2", "generate").lowered)
  model = config.model
  # Of both groups of guidance: a half of the items, and of the heads.
  cache = 2 * model.layers * 8 * 53 * model.width // 2 * 4
  # It is written in place. Undivided it would be four times as much; the rest
  # is padding to the tiles of the chip.
  assert cache <= found.aliased < 4 * cache
  assert found.aliased < found.arguments
  with pytest.raises(UserError, match="task 'codec'.*generate"):
    config = config_files.parse(["--config=soundstream_24khz:tiny"])
    ahead.plan(config, "v5e:2x2", "generate")
