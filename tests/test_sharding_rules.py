"""Sharding rules of every model, and batches that devices cannot share.

Defects that these tests must catch: a table that nobody kept when a model's
parameters were renamed, and a large array that is on every device.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules
from mmdcodec.train import compile as ahead
from mmdcodec.train import config_files, program
from mmdcodec.train.task import make_task

CONFIGS = (
  "encodec_24khz",
  "soundstream_24khz",
  "spectral_48khz",
  "musicgen:melody",
  "musiclm_semantic",
  "musiclm_fine",
  "semantic",
  "semantic:best_rq",
  "mulan",
  "mulan:resnet",
  "mulan:minilm",
  "melody_embedding",
)


@functools.cache
def trained(name):
  """Task and shapes of what it trains, with discriminators."""
  task = make_task(config_files.parse([f"--config={name}"]).to_dict())
  init = lambda key: {**task.init(key), "extra": task.init_extra_state(key)}
  return task, jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize(
  "name",
  [
    name
    if name in ("spectral_48khz", "musiclm_fine", "mulan:minilm")
    else pytest.param(name, marks=pytest.mark.slow)
    for name in CONFIGS
  ],
)
def test_rules_of_every_model(name):
  """Catches a rule that matches nothing, or a large array left whole."""
  task, shapes = trained(name)
  for sizes in (dict(fsdp=8), dict(data=2, fsdp=2, model=2)):
    mesh = mesh_lib.make_mesh(dict(data=1) | sizes)
    layout = rules.shardings(shapes, mesh, task.rules)
    rules.check(shapes, layout, task.rules)


def test_low_rank_additions():
  """Catches additions that are whole on every device, and large for a model."""
  words = ["--config=lm_small:tiny", "--config.lora.rank=3"]
  task = make_task(config_files.parse(words).to_dict())
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  for sizes in (dict(fsdp=8), dict(data=2, fsdp=2, model=2)):
    mesh = mesh_lib.make_mesh(dict(data=1) | sizes)
    layout = rules.shardings(shapes, mesh, task.rules)
    rules.check(shapes, layout, task.rules)
    added = jax.tree.leaves(layout["params"]["lora"])
    assert added and not any(where.is_fully_replicated for where in added)


def check(table, shape, **sizes):
  tree = {"a": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}}
  mesh = mesh_lib.make_mesh(sizes)
  rules.check(tree, rules.shardings(tree, mesh, table), table)


@pytest.mark.usefixtures("all_devices")
def test_mistakes_in_a_table():
  """Catches rules that are passed over in silence."""
  kernel, rest = (r"kernel$", P("fsdp", "model")), (r".*", P())
  check([kernel, rest], (2048, 2048), data=1, fsdp=8)
  with pytest.raises(UserError, match="'bias'.*a/kernel"):
    check([(r"bias", P()), kernel, rest], (8, 8))
  with pytest.raises(UserError, match="'a/kernel'"):  # behind another one
    check([kernel, (r"a/kernel", P()), rest], (8, 8))
  with pytest.raises(UserError, match="a/kernel.*16 MiB.*mesh.fsdp is 8"):
    check([rest], (2048, 2048), data=1, fsdp=8)
  with pytest.raises(UserError, match="a/kernel"):  # does not divide 2047
    check([kernel, rest], (2047, 2047), data=1, fsdp=8)
  check([rest], (2048, 2048))  # data parallelism
  check([rest], (1024, 2048), data=1, fsdp=8)  # 8 MiB


def test_a_run_checks_its_rules():
  """Catches a check that no training makes."""
  config = config_files.parse(["--config=lm_small:tiny"]).to_dict()
  task = make_task(config)
  task.rules = [(r"nothing", P()), (r".*", P())]
  with pytest.raises(UserError, match="'nothing'"):
    program.make_program(task, config, mesh_lib.make_mesh())


def test_parts_of_a_batch():
  """Catches a device that has no rows while the others compute."""
  mesh = mesh_lib.make_mesh(dict(data=4, model=2))
  mesh_lib.check_batch(8, mesh, 2)
  with pytest.raises(UserError, match="accumulate 4.*2 rows.*multiple of 16"):
    mesh_lib.check_batch(8, mesh, 4)
  with pytest.raises(UserError, match="batch is 6"):
    mesh_lib.check_batch(6, mesh)


@pytest.mark.parametrize(
  ("topology", "changes", "match"),
  [
    ("v5e:2x2", ("batch=6",), "batch is 6.*4 parts"),
    ("v5e:2x2", ("batch=8", "accumulate=4"), "accumulate 4"),
    # One row for each of eight chips in two slices.
    ("2xv5e:2x2", ("batch=4",), "batch is 4.*8 parts"),
    # Sixteen chips belong to several hosts, which must read rows of their own.
    ("v5e:4x4", ("batch=4", "mesh.data=1", "mesh.model=16"), "processes"),
  ],
)
def test_compile_refuses_what_training_would(topology, changes, match):
  """Catches a compiled step of a run that cannot start."""
  pytest.importorskip("libtpu")
  words = [f"--config.{change}" for change in changes]
  config = config_files.parse(["--config=lm_small:tiny", *words])
  with pytest.raises(UserError, match=match):
    ahead.plan(config, topology)
