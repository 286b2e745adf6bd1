"""The training loop: several devices, restoring, starts, mistakes."""

import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_runs import CONFIG, SPECTRAL

from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.store import workdir as run_files
from mmdcodec.store.checkpoints import Checkpoints
from mmdcodec.train import config_files, loop, settings
from mmdcodec.train import program as program_lib
from mmdcodec.train.state import TrainState
from mmdcodec.train.task import make_task

PLAIN = (
  *CONFIG,
  "--config.losses.adversarial.weight=0.0",
  "--config.losses.features.weight=0.0",
  "--config.balancer.on=False",
  "--config.optimizer.clip=1.0",
)


# The norm of a spectral codec's latents subtracts these. Their gradient is
# rounding alone, of which Adam makes a whole step.
IDLE = re.compile("encoder/blocks/(norm|dense)_out/bias$")


def program_on(devices, shape, config):
  task = make_task(config)
  mesh = mesh_lib.make_mesh(shape, jax.devices()[:devices])
  return mesh, program_lib.make_program(task, config, mesh)


def short(*more):
  """All that a state can hold, in programs that compile in seconds."""
  more = more or (*CONFIG, "--config.model.lstm_layers=1")
  config = config_files.parse([*more])
  config.model.ratios = (20,)
  config.data.seconds, config.model.threshold = 0.1, 0.5
  config.losses.mel.windows = (64,)
  config.adversarial.discriminators = (
    dict(name="multi_scale_stft", filters=4, windows=(64,)),
  )
  return config


def music(seed, config):
  """A batch that is no silence: decaying tones."""
  key = jax.random.key(seed)
  samples = round(config["data"]["seconds"] * config["model"]["rate"])
  time = jnp.arange(samples) / config["model"]["rate"]
  pitch = 110 * 2 ** (3 * jax.random.uniform(key, (config["batch"], 4, 1)))
  x = jnp.sin(2 * np.pi * pitch * time).mean(1) * jnp.exp(-4 * time)
  noise = 0.02 * jax.random.normal(key, x.shape)
  return {
    "audio": np.asarray((x + noise)[..., None], np.float32),
    "lengths": np.full(config["batch"], samples, np.int32),
  }


def assert_near(found, wanted, rtol):
  """Leaf by leaf, by norm.

  A leaf may differ by a little of the whole as well: some gradients are zero
  but for rounding.
  """
  found, wanted = jax.device_get((found, wanted))
  chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
  # What a step does not measure is NaN.
  chex.assert_trees_all_equal(
    *(jax.tree.map(np.isnan, t) for t in (found, wanted))
  )
  found, wanted = (jax.tree.map(np.nan_to_num, t) for t in (found, wanted))
  size = optax.tree.norm(wanted)
  for (path, a), b in zip(
    jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True
  ):
    if IDLE.search(jax.tree_util.keystr(path, simple=True, separator="/")):
      continue
    error = np.linalg.norm(np.float64(a) - np.float64(b))
    allowed = rtol * (np.linalg.norm(np.float64(b)) + 1e-2 * size)
    assert error <= allowed, (jax.tree_util.keystr(path), error, allowed)


def assert_restores_elsewhere(folder, state, config):
  """A checkpoint of a state that is cut goes onto four devices and onto one."""
  assert any(
    not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state)
  )
  checkpoints = Checkpoints(folder)
  checkpoints.save(20, state, {"index": 5})
  checkpoints.wait()
  for devices, shape in ((4, {"data": 1, "fsdp": 2, "model": 2}), (1, {})):
    _, program = program_on(devices, shape, config)
    restored, position = checkpoints.restore(program.abstract)
    assert position == {"index": 5}
    chex.assert_trees_all_equal(*jax.device_get((restored, state)))
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(restored)} == {
      devices
    }
  checkpoints.close()


@pytest.mark.parametrize(
  "shape, config",
  [
    ({"data": 8}, ()),
    pytest.param({"data": 8}, SPECTRAL, marks=pytest.mark.slow),
    pytest.param(
      {"data": 1, "fsdp": 4, "model": 2}, (), marks=pytest.mark.slow
    ),
  ],
  ids=["data", "spectral", "cut"],
)
def test_one_device_equals_eight_and_restores_elsewhere(
  tmp_path, shape, config
):
  """Catches statistics of a shard for those of the batch; layouts in files.

  Every step starts from the state that one device has reached. Eight devices
  round otherwise, and training multiplies the difference, with discriminators
  tenfold every few steps.
  """
  config = short(*config).to_dict()
  alone, one = program_on(1, {"data": 1}, config)
  mesh, eight = program_on(8, shape, config)
  shardings = jax.tree.map(lambda a: a.sharding, eight.abstract)
  with jax.set_mesh(alone):
    state = one.init(jax.random.key(0))
  if shape["data"] == 1:
    with jax.set_mesh(mesh):
      assert_near(eight.init(jax.random.key(0)), state, 1e-6)
  replaced = 0
  for step in range(3):
    batch = music(step, config)
    spread = jax.device_put(jax.device_get(state), shardings)
    with jax.set_mesh(alone):
      state, wanted = one.step(state, mesh_lib.place(batch, alone))
    with jax.set_mesh(mesh):
      other, found = eight.step(spread, mesh_lib.place(batch, mesh))
    assert_near(found, wanted, 1e-5)
    for part in ("params", "collections", "extra", "opt_state", "ema"):
      assert_near(getattr(other, part), getattr(state, part), 1e-5)
    replaced += wanted["replaced"].sum()
  assert replaced  # dead codes, by rows of the whole batch
  # A state that differs from the next one in the least compiles again.
  assert one.step._cache_size() == 1
  if shape["data"] == 1:
    assert_restores_elsewhere(tmp_path, other, config)


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path):
  """Catches runs that can't be resumed since a state has one field more."""
  variables = {"params": {"w": jnp.arange(3.0)}, "codebook": {"c": jnp.ones(2)}}
  state = TrainState.create(variables, optax.adam(0.1), ema=False)
  saved = {name: value for name, value in vars(state).items()}
  del saved["extra"]
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, saved, {"index": 7})
  checkpoints.wait()
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), state
  )
  restored, position = checkpoints.restore(abstract)
  checkpoints.close()
  assert position == {"index": 7} and restored.extra is None
  chex.assert_trees_all_equal(restored, state)


def test_a_workdir_keeps_to_its_state(tmp_path):
  """Catches runs of earlier versions that can't go on, or lose what they carry.

  And a traceback where the workdir is no run at all.
  """
  now = config_files.parse([*CONFIG]).to_dict()
  task = make_task(now)
  plain = config_files.parse([*PLAIN]).to_dict()
  old = json.loads(json.dumps(plain))
  for name in ("adversarial", "features", "independence"):
    del old["losses"][name]
  del old["adversarial"], old["balancer"]
  file = tmp_path / run_files.CONFIG_FILE
  file.write_text(json.dumps(old))
  with pytest.raises(UserError, match="--config.losses.adversarial.weight=0"):
    settings.record_config(now, tmp_path, task)
  assert json.loads(file.read_text()) == old
  settings.record_config(plain, tmp_path, task)
  file.write_text(json.dumps(now))
  settings.record_config(now, tmp_path, task)
  for changes, words in [
    (["--config.losses.stft.weight=1.0"], "set of balanced losses"),
    (["--config.adversarial.optimizer.name=adamw"], "adversarial.optimizer"),
    (PLAIN[len(CONFIG) :], "adversarial.discriminators"),
  ]:
    other = config_files.parse([*CONFIG, *changes]).to_dict()
    with pytest.raises(UserError, match=words):
      settings.record_config(other, tmp_path, task)
  file.write_text(json.dumps({"model_type": "encodec"}))
  with pytest.raises(UserError, match="no --workdir"):
    settings.record_config(now, tmp_path, task)


@pytest.mark.parametrize(
  "text, expected",
  [
    ("a", ["a"]),
    ("a, b", ["a", "b"]),
    ("a=0.7, b=3e-1", {"a": 0.7, "b": 0.3}),
    ("x=y=2", {"x=y": 2.0}),
    ("runs/a=b", ["runs/a=b"]),
    ("a=1.2.3", ["a=1.2.3"]),
    ("", []),
    ({"with,comma": 1.0}, {"with,comma": 1.0}),
  ],
)
def test_data_sets_are_read_from_text(text, expected):
  """Catches lost weights."""
  assert settings.parse_datasets(text) == expected


@pytest.mark.usefixtures("all_devices")
def test_mistakes_before_the_first_step(tmp_path, dataset):
  """Catches a run that starts, and fails later or trains on nothing."""
  config = config_files.parse([*CONFIG])
  with pytest.raises(UserError, match="prepare"):
    loop.train(config, tmp_path)
  config.data.train = str(dataset)
  config.batch = 12  # the tests have eight devices
  with pytest.raises(UserError, match="multiple"):
    loop.train(config, tmp_path)
  with pytest.raises(UserError, match="weight"):
    settings.parse_datasets("a=0.5,b")
  config.batch = 8
  for key, value, words in [
    ("log_every", 0, "log_every"),
    ("save_every", 15, "multiple of eval_every"),
    ("ema", 1.0, "ema"),
  ]:
    broken = config.copy_and_resolve_references()
    broken.data.valid = str(dataset)
    broken[key] = value
    with pytest.raises(UserError, match=words):
      loop.train(broken, tmp_path)
  broken = config.copy_and_resolve_references()
  broken.data.gain_db = (1.0, 2.0, 3.0)
  with pytest.raises(UserError, match="gain_db"):
    loop.train(broken, tmp_path)
  config.task = "juggling"
  with pytest.raises(UserError, match="juggling"):
    loop.train(config, tmp_path)


@pytest.mark.slow
def test_a_run_can_start_from_another_and_go_on(tmp_path, dataset):
  """Catches lost start weights, and settings that can't change."""
  config = short()
  config.data.train = str(dataset)
  config.steps = config.save_every = 2
  config.log_every = 1
  first, lines = tmp_path / "first", []
  loop.train(config, first, log=lines.append)
  checkpoints = Checkpoints(first, read_only=True)
  trained = checkpoints.restore_arrays()
  checkpoints.close()

  # Another run, from the weights of the first, that does not move.
  config.init_from, config.optimizer.learning_rate = str(first), 0.0
  second = tmp_path / "second"
  loop.train(config, second, log=lines.append)
  checkpoints = Checkpoints(second, read_only=True)
  started = checkpoints.restore_arrays()
  checkpoints.close()
  # Released weights are averaged ones where there is an average.
  chex.assert_trees_all_close(started["params"], trained["ema"], rtol=1e-6)

  # The same run again: nothing to do; with more steps and another clip, on.
  loop.train(config, second, log=lines.append)
  assert "has done its 2 steps" in lines[-1]
  config.steps, config.save_every, config.optimizer.clip = 4, 4, 0.0
  loop.train(config, second, log=lines.append)
  assert any(f"resumed {second} at step 2" in line for line in lines)
  assert list((second / "tensorboard").iterdir())
  config.model.codebooks += 1
  with pytest.raises(UserError, match="codebooks"):
    loop.train(config, second, log=lines.append)
  config.model.codebooks -= 1
  config.init_from = str(tmp_path / "missing")
  with pytest.raises(UserError, match="no model"):
    loop.train(config, tmp_path / "third", log=lines.append)
