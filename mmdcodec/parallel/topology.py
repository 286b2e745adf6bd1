"""Compiles for a TPU slice without having one.

The real TPU compiler (the libtpu wheel) compiles for a described topology on
any machine. Memory and traffic come from its analysis; nothing is timed.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax

from mmdcodec import platform
from mmdcodec.errors import UserError

# Options that some topologies need (libtpu's platform configuration).
_EXTRA = {
  "v4": dict(chip_config_name="megacore", chips_per_host_bounds=(2, 2, 1))
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all",
               "collective-permute")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Compiled:
  """The compiler's analysis of one step, per chip.

  Attributes:
    topology: name, such as "v5e:2x2".
    chips: number of chips in the topology.
    arguments, outputs, temporaries, aliased, code: bytes. The state is donated,
      so aliased bytes are counted once.
    flops: floating-point operations; bytes_accessed: memory traffic.
    collectives: number of each kind in the program; None if the program cannot
      be printed.
    kernels: number of Pallas kernels in the program.
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
    """Peak memory of one chip, in bytes."""
    return (
      self.arguments
      + self.outputs
      - self.aliased
      + self.temporaries
      + self.code
    )

  def __str__(self) -> str:
    """Formats a small table."""
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


def topology_devices(name: str) -> Sequence[jax.Device]:
  """Returns the devices of a described TPU slice, or of several.

  Args:
    name: `v5e:2x2`, `v5p:2x2x2`, `v4:2x2x4`, ...; `2xv5e:16x16` is two slices.

  Raises:
    UserError: libtpu is not installed, or does not support the topology.
  """
  from jax.experimental import topologies

  platform.only_compile_for_tpu()
  parsed = re.fullmatch(
    r"(?:([1-9]\d*) ?x ?)?((v\w+):(\d+(?:x\d+){1,2}))", name
  )
  if parsed is None:
    raise UserError(
      f"{name!r} is not a topology; expected a name such as v5e:2x2, v5p:2x2x2"
      " or v4:2x2x4, or 2xv5e:16x16 for two slices."
    )
  slices, one, kind, shape = parsed.groups()
  sides = tuple(map(int, shape.split("x")))
  extra: dict[str, Any] = dict(_EXTRA.get(kind, {}))
  if math.prod(sides) == 1:
    extra["chips_per_host_bounds"] = (1, 1, 1)
  if slices is not None and int(slices) > 1:
    extra["num_slices"] = int(slices)
  try:
    return topologies.get_topology_desc(one, platform="tpu", **extra).devices
  except Exception as error:  # jaxlib raises several kinds.
    reason = " ".join(str(error).split())[:200]
    raise UserError(
      f"the TPU compiler has no topology {name!r} ({reason}); it comes with"
      " `pip install libtpu`."
    ) from None


def account(topology: str, chips: int, lowered: jax.stages.Lowered) -> Compiled:
  """Compiles a lowered program and returns the compiler's analysis.

  Args:
    topology: name of the topology it was lowered for.
    chips: number of chips in the topology.
    lowered: the program.
  """
  compiled = lowered.compile()
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  assert memory is not None and cost is not None
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


def _collectives(compiled: jax.stages.Compiled) -> dict[str, int] | None:
  """Counts the collective operations of each kind in a program."""
  try:
    text = compiled.as_text()
  except jax.errors.JaxRuntimeError:
    # jaxlib cannot print some asynchronous operations of libtpu.
    return None
  if text is None:
    return None
  return {
    kind: count
    for kind in COLLECTIVES
    if (count := len(re.findall(rf" {kind}(?:-start)?\(", text)))
  }
