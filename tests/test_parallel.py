"""Mesh, sharding rules, and compilation for a TPU slice that is not there."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules, topology
from mmdcodec.train import compile_report


def test_mesh_takes_the_rest():
  """Catches a wrong -1, axes in another order, and explicit axes."""
  mesh = mesh_lib.make_mesh({"data": -1, "fsdp": 2, "model": 2})
  assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "model": 2}
  assert mesh.axis_names == ("data", "fsdp", "model")
  assert set(mesh.axis_types) == {AxisType.Auto}
  assert dict(mesh_lib.make_mesh({"data": 2, "fsdp": -1}).shape)["fsdp"] == 4


@pytest.mark.usefixtures("all_devices")
@pytest.mark.parametrize(
  "shape",
  [
    {"data": 1},
    {"data": 3},
    {"data": -1, "fsdp": -1},
    {"fsdp": 3},
    {"width": 2},
  ],
)
def test_impossible_meshes_are_refused(shape):
  """Catches a mesh that leaves devices idle or fails deep inside JAX."""
  with pytest.raises(UserError, match="mesh"):
    mesh_lib.make_mesh(shape)


def test_constraint_reaches_the_compiler():
  """Catches a constraint that is silently ignored (the old `with mesh:`)."""
  mesh = mesh_lib.make_mesh({"data": 4, "model": 2})
  f = lambda x: rules.constrain(x * 2, "batch", None, "model")
  x = jnp.ones((8, 3, 4))
  with jax.set_mesh(mesh):
    text = jax.jit(f).lower(x).as_text()
  assert "sharding_constraint" in text
  # Without a mesh the same code runs as it is.
  assert "sharding_constraint" not in jax.jit(f).lower(x).as_text()


def test_rules_fit_the_array():
  """Catches specs on the wrong axes, and axes that do not divide."""
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "model": 2})
  table = [(r"kernel$", P("fsdp", "model")), (r".*", P())]
  spec = lambda *shape: (
    rules.shardings({"a": {"kernel": jnp.zeros(shape)}}, mesh, table)["a"][
      "kernel"
    ].spec
  )
  assert spec(4, 6) == P("fsdp", "model")
  assert spec(7, 4, 6) == P(None, "fsdp", "model")
  assert spec(7, 3, 6) == P(None, None, "model")
  assert spec(6) == P("model")
  with pytest.raises(ValueError, match="a/bias"):
    rules.shardings({"a": {"bias": jnp.zeros(3)}}, mesh, table[:1])


@pytest.mark.parametrize("preset", ["encodec_24khz", "spectral_48khz"])
def test_codec_rules_shard_what_is_large(preset):
  """Catches a rule that matches nothing, or a large array left whole."""
  from mmdcodec.models import codec

  model = codec.from_config(codec.preset(preset))
  x = jnp.zeros((1, model.stride, model.channels))
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 4, "model": 2})
  layout = rules.shardings(variables, mesh, rules.CODEC_RULES)
  paths = jax.tree_util.tree_flatten_with_path(variables)[0]
  names = [rules.path_name(path) for path, _ in paths]
  import re

  for pattern, _ in rules.CODEC_RULES:
    assert any(re.search(pattern, name) for name in names), pattern
  for name, (_, leaf), sharding in zip(
    names, paths, jax.tree.leaves(layout), strict=True
  ):
    if leaf.size >= 2**16:
      assert not sharding.is_fully_replicated, name


@pytest.mark.slow
def test_train_step_compiles_for_a_tpu_slice(optimized):
  """Catches what the TPU compiler refuses, with a whole training step.

  Discriminators of spectra, which take a minute more, are left out; the rows of
  docs/SCALING.md were compiled with them.
  """
  from mmdcodec.train import config_files

  config = config_files.parse(
    ["--config=soundstream_24khz:tiny", "--config.losses.mel.windows=(256,)"]
  )
  waves, _ = config.adversarial.discriminators
  config.adversarial.discriminators = ({**waves, "scales": 1},)
  report = compile_report.make(config, "v5e:2x2")
  print(report)
  assert report.plan.mesh.size == 4 and report.fits
  # Data parallel: the gradients are summed over the chips.
  summed = report.found.collectives["all-reduce"].bytes
  assert summed >= report.plan.sizes["parameters"]
  assert sum(report.plan.sizes.values()) < report.needed < 2**30


@pytest.mark.parametrize("name", ["v5e", "v5e:9999x2", "tpu:2x2", "v5e:2"])
def test_unknown_topology(name):
  """Catches a traceback out of the TPU compiler."""
  with pytest.raises(UserError, match="topology"):
    topology.topology_devices(name)
