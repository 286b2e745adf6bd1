"""Ahead-of-time compilation for a TPU slice, without having one.

Compiles a training step, or the independence loss alone, for a topology; see
`parallel/topology.py`.
"""

from collections.abc import Mapping

import jax

from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel.topology import Compiled, account, topology_devices
from mmdcodec.quantize import independence
from mmdcodec.train import config_checks, settings
from mmdcodec.train import program as program_lib
from mmdcodec.train.task import make_task


def compile_step(config: Mapping, topology: str) -> Compiled:
  """Compiles the training step of a config for a TPU slice.

  Args:
    config: as for `train.loop.train`; no data set is read.
    topology: see `topology_devices`.

  Returns:
    The compiler's analysis, per chip.
  """
  chips = len(topology_devices(topology))
  return account(topology, chips, lower_step(config, topology))


def lower_step(config: Mapping, topology: str) -> jax.stages.Lowered:
  """Lowers the training step of a config for a TPU slice without compiling it.

  Args:
    config: as for `train.loop.train`.
    topology: see `topology_devices`.
  """
  config = settings.plain(config)
  config_checks.check(config)
  mesh = mesh_lib.make_mesh(config["mesh"], topology_devices(topology))
  task = make_task(config)
  program = program_lib.make_program(task, config, mesh)
  sharding = mesh_lib.batch_sharding(mesh)
  batch = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
    task.batch_shapes(config["batch"]),
  )
  # The largest program of the run.
  step = program.step
  if program.long_step is not None:
    step, batch = program.long_step, (batch,) * task.history
  with jax.set_mesh(mesh):
    return step.trace(program.abstract, batch).lower(
      lowering_platforms=("tpu",)
    )


def compile_independence(
  topology: str, *, rows: int, codebooks: int, dim: int, estimator: str
) -> Compiled:
  """Compiles the independence loss and its gradient for a TPU slice.

  Args:
    topology: see `topology_devices`.
    rows: rows of the global batch, which is divided among the chips; rounded up
      to a multiple of their number.
    codebooks: number of streams.
    dim: dimension of a code vector.
    estimator: see `independence.ESTIMATORS`.

  Returns:
    The compiler's analysis, per chip.
  """
  devices = topology_devices(topology)
  mesh = mesh_lib.make_mesh({}, devices)
  loss = lambda streams, seed: independence.independence_loss(
    streams, jax.random.key(seed), estimator=estimator
  )
  shape = (len(devices), -(-rows // len(devices)), codebooks, dim)
  sharding = mesh_lib.batch_sharding(mesh)
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  with jax.set_mesh(mesh):
    traced = jax.jit(
      jax.value_and_grad(loss), out_shardings=(whole, sharding)
    ).trace(
      jax.ShapeDtypeStruct(shape, "float32", sharding=sharding),
      jax.ShapeDtypeStruct((), "int32", sharding=whole),
    )
    lowered = traced.lower(lowering_platforms=("tpu",))
  return account(topology, len(devices), lowered)
