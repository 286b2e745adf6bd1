"""Ahead-of-time compilation for a TPU slice, without one.

The real TPU compiler (the libtpu wheel) compiles a training step, or the
independence loss alone, for a described topology. What it says of memory and
traffic is the compiler's own analysis; no time is measured.
"""

import dataclasses
import math
import os
import re
from collections.abc import Mapping

import jax

from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib

# Topologies that need more than their name (libtpu's platform configuration).
_EXTRA = {
  "v4": dict(chip_config_name="megacore", chips_per_host_bounds=(2, 2, 1))
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all",
               "collective-permute")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler says of one step, per chip.

  Attributes:
    topology: such as "v5e:2x2".
    chips: in it.
    arguments, outputs, temporaries, aliased, code: bytes. The state is donated,
      so what is aliased is counted once.
    flops: floating point operations; bytes_accessed: memory traffic.
    collectives: how many of each kind stand in the program; None if it cannot
      be printed.
    kernels: how many Pallas kernels stand in it.
  """

  topology: str
  chips: int
  arguments: int
  outputs: int
  temporaries: int
  aliased: int
  code: int
  flops: float
  bytes_accessed: float
  collectives: dict[str, int] | None
  kernels: int

  @property
  def memory(self) -> int:
    """Bytes that one chip needs at the peak."""
    return (
      self.arguments
      + self.outputs
      - self.aliased
      + self.temporaries
      + self.code
    )

  def __str__(self) -> str:
    """A small table."""
    mib = lambda size: f"{size / 2**20:10,.1f} MiB"
    rows = [
      (f"memory per chip ({self.chips} x {self.topology})", mib(self.memory)),
      ("  arguments (state and batch)", mib(self.arguments)),
      ("  temporaries", mib(self.temporaries)),
      ("  code", mib(self.code)),
      ("operations per chip and step", f"{self.flops / 1e9:10,.1f} GFLOP"),
      ("memory traffic per step", mib(self.bytes_accessed)),
    ]
    rows += [
      (f"  {kind}", f"{count:8d}")
      for kind, count in (self.collectives or {}).items()
    ]
    if self.collectives is None:
      rows.append(("  collectives", f"{'not known':>14}"))
    return "\n".join(f"{name:<38}{value}" for name, value in rows)


def topology_devices(name: str) -> list:
  """Devices of a described TPU slice.

  Args:
    name: `v5e:2x2`, `v5p:2x2x2`, `v4:2x2x4`, ...

  Raises:
    UserError: libtpu is not installed, or knows no such topology.
  """
  from jax.experimental import topologies

  # Else libtpu asks the cloud's metadata server who it is, for minutes,
  # complains of each thing that it is not told, and keeps a lock for chips that
  # nobody uses here.
  for variable, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("TPU_WORKER_ID", "0"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-8"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
  ):
    os.environ.setdefault(variable, value)
  kind = name.partition(":")[0]
  if not re.fullmatch(r"v\w+:\d+(x\d+){1,2}", name):
    raise UserError(
      f"{name!r} is no topology; write it as v5e:2x2, v5p:2x2x2 or v4:2x2x4."
    )
  sides = tuple(int(n) for n in name.partition(":")[2].split("x"))
  extra = dict(_EXTRA.get(kind, {}))
  if math.prod(sides) == 1:
    extra["chips_per_host_bounds"] = (1, 1, 1)
  try:
    return topologies.get_topology_desc(name, platform="tpu", **extra).devices
  except Exception as error:  # jaxlib raises several kinds.
    reason = " ".join(str(error).split())[:200]
    raise UserError(
      f"the TPU compiler gives no topology {name!r} ({reason}). It comes with"
      " `pip install libtpu`."
    ) from None


def compile_step(config: Mapping, topology: str) -> Compiled:
  """Compiles the training step of a config for a TPU slice.

  Args:
    config: as `train.loop.train` takes it; no data set is read.
    topology: see `topology_devices`.

  Returns:
    The compiler's account, per chip.
  """
  chips = len(topology_devices(topology))
  return _account(topology, chips, lower_step(config, topology))


def lower_step(config: Mapping, topology: str) -> jax.stages.Lowered:
  """What `compile_step` compiles."""
  from mmdcodec.train import program as program_lib
  from mmdcodec.train.task import make_task

  config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
  mesh = mesh_lib.make_mesh(config["mesh"], topology_devices(topology))
  task = make_task(config)
  program = program_lib.make_program(task, config, mesh)
  sharding = mesh_lib.batch_sharding(mesh)
  batch = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
    task.batch_shapes(config["batch"]),
  )
  # The step that needs most.
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
  """Compiles value and gradient of the independence loss for a TPU slice.

  Args:
    topology: see `topology_devices`.
    rows: of the global batch, which is cut over the chips; rounded up to a
      multiple of them.
    codebooks: streams.
    dim: of one code's vector.
    estimator: see `independence.ESTIMATORS`.

  Returns:
    The compiler's account, per chip.
  """
  from mmdcodec.quantize import independence

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
  return _account(topology, len(devices), lowered)


def _account(topology: str, chips: int, lowered) -> Compiled:
  compiled = lowered.compile()
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  return Compiled(
    topology=topology,
    chips=chips,
    arguments=memory.argument_size_in_bytes,
    outputs=memory.output_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    aliased=memory.alias_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    flops=cost.get("flops", 0.0),
    bytes_accessed=cost.get("bytes accessed", 0.0),
    collectives=_collectives(compiled),
    kernels=lowered.as_text().count("@tpu_custom_call"),
  )


def _collectives(compiled) -> dict[str, int] | None:
  try:
    text = compiled.as_text()
  except jax.errors.JaxRuntimeError:
    # jaxlib cannot print some asynchronous operations of libtpu's.
    return None
  return {
    kind: count
    for kind in COLLECTIVES
    if (count := len(re.findall(rf" {kind}(?:-start)?\(", text)))
  }
