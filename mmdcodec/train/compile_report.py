"""Whether a program fits a slice, what it computes and what it sends."""

import dataclasses
import importlib.metadata
import math
import time
from collections.abc import Mapping
from typing import Any

from mmdcodec.errors import UserError
from mmdcodec.parallel import chips
from mmdcodec.parallel.analysis import Compiled, OutOfMemory, account
from mmdcodec.train.compile import Plan, plan
from mmdcodec.train.task import make_task

# What the backward pass may recompute, from least to most.
_REMAT = {"none": "dots", "dots": "full", False: True}


@dataclasses.dataclass(frozen=True)
class Report:
  """A plan and what the compiler made of it. Sizes are per device, in bytes.

  Attributes:
    plan: the program.
    topology: name of the slice; None for the devices that are there.
    found: the compiler's analysis, or its refusal.
    seconds: how long it took to trace and compile.
  """

  plan: Plan
  topology: str | None
  found: Compiled | OutOfMemory
  seconds: float

  @property
  def chip(self) -> chips.Chip | None:
    """Figures of the devices, if they are known."""
    return chips.find(self.plan.mesh.devices.flat[0].device_kind)

  @property
  def available(self) -> int | None:
    """Memory of a device for programs."""
    if isinstance(self.found, OutOfMemory) and self.found.available:
      return self.found.available
    return self.chip.memory if self.chip else None

  @property
  def needed(self) -> int:
    """Memory that the program takes; if it was refused, at least."""
    if isinstance(self.found, Compiled):
      return self.found.memory
    return max(self.found.needed or 0, sum(self.plan.sizes.values()))

  @property
  def fits(self) -> bool | None:
    """Whether it fits; None if nothing is known of the devices."""
    if isinstance(self.found, OutOfMemory):
      return False
    return None if self.available is None else self.needed <= self.available

  @property
  def memory(self) -> dict[str, int]:
    """Memory by kind; those of the compiler are left out if it refused."""
    sizes = {name: size for name, size in self.plan.sizes.items() if size}
    found = self.found
    if isinstance(found, OutOfMemory):
      more = {"temporaries": self.needed - sum(sizes.values())}
    else:
      more = {
        # Tiles of TPUs, whose last side is 128 numbers.
        "padding": max(found.arguments - sum(sizes.values()), 0),
        "results": max(found.outputs - found.aliased, 0),
        "temporaries": found.temporaries,
        "code": found.code,
      }
    return sizes | more

  @property
  def verdict(self) -> str:
    """One line: fits, or by how much not."""
    if self.fits is None:
      return f"needs {_gib(self.needed)}; the memory of the device is not known"
    assert self.available is not None
    if self.fits:
      share = self.needed / self.available
      return (
        f"fits: {_gib(self.needed)} of {_gib(self.available)} ({share:.0%})"
      )
    excess = max(self.needed - self.available, 0)
    return (
      f"does not fit: {_gib(self.needed)} or more, of {_gib(self.available)}"
      f" ({_gib(excess)} too much)"
    )

  def to_dict(self) -> dict[str, Any]:
    """Everything, in types of JSON."""
    found, planned = self.found, self.plan
    count = planned.mesh.size
    result: dict[str, Any] = {
      "program": planned.program,
      "topology": self.topology,
      "chip": self.chip and dataclasses.asdict(self.chip),
      "devices": count,
      "mesh": dict(planned.mesh.shape),
      "batch": planned.config["batch"],
      "accumulate": planned.config.get("accumulate", 1),
      "fits": self.fits,
      "verdict": self.verdict,
      "advice": advice(self),
      "memory": {
        **self.memory, "total": self.needed, "available": self.available
      },
      "operations": planned.operations / count,
      "seconds": round(self.seconds),
      "versions": {
        name: importlib.metadata.version(name)
        for name in ("mmdcodec", "jax", "libtpu")
        if name != "libtpu" or self.topology
      },
    }  # fmt: skip
    if isinstance(found, OutOfMemory):
      return result | {"refused": found.message}
    sent: Any = found.collectives
    return result | {
      "compiler": {"flops": found.flops, "traffic": found.bytes_accessed},
      "collectives": sent and {k: v._asdict() for k, v in sent.items()},
      "kernels": found.kernels,
    }

  def __str__(self) -> str:
    """Formats a table."""
    planned, found = self.plan, self.found
    mesh = " x ".join(f"{n} {name}" for name, n in planned.mesh.shape.items())
    where = self.topology or planned.mesh.devices.flat[0].device_kind
    rows = [("program", planned.program), ("devices", f"{where}, {mesh}")]
    rows += [
      (f"  {name}", f"{size / 2**20:12,.1f} MiB")
      for name, size in self.memory.items()
    ]
    rows.insert(2, ("memory per chip", f"{self.needed / 2**20:12,.1f} MiB"))
    each = planned.operations / planned.mesh.size
    rows.append(("operations per chip", f"{each / 1e9:12,.1f} GFLOP"))
    if isinstance(found, Compiled):
      # Of these the content of a loop counts once.
      rows += [
        ("  as the compiler counts", f"{found.flops / 1e9:12,.1f} GFLOP"),
        ("memory traffic", f"{found.bytes_accessed / 2**20:12,.1f} MiB"),
      ]
      if found.collectives is None:
        rows.append(("collectives", "not known"))
      for kind, one in (found.collectives or {}).items():
        size = f"{one.bytes / 2**20:12,.1f} MiB"
        rows.append((kind, f"{size} in {one.number}"))
    lines = [f"{name:<26}{value}" for name, value in rows]
    lines += [self.verdict, *(f"  try {each}" for each in advice(self))]
    return "\n".join(lines)


def make(
  config: Mapping, topology: str | None = None, program: str = "train"
) -> Report:
  """Has a program of a config compiled; see `compile.plan`.

  Raises:
    UserError: the config has no such program, or its mesh, batch or parts of a
      batch do not fit the devices.
  """
  start = time.perf_counter()
  planned = plan(config, topology, program)
  found = account(planned.lowered)
  return Report(planned, topology, found, time.perf_counter() - start)


def advice(report: Report) -> list[str]:
  """What to change in the config of a program that does not fit.

  Returns:
    Settings, each with its effect, those that cost least first; none if the
    program fits.
  """
  if report.fits is not False or report.available is None:
    return []
  planned = report.plan
  config, shape, size = planned.config, planned.mesh.shape, planned.mesh.size
  training = planned.program == "train"
  accumulate = config.get("accumulate", 1) if training else 1
  rows = config["batch"] // (shape["data"] * shape["fsdp"]) // accumulate
  state = sum(planned.sizes.values()) - planned.sizes["batch"]
  lines = []
  slices = len(
    {getattr(d, "slice_index", 0) for d in planned.mesh.devices.flat}
  )
  most = size // slices // shape["model"]
  if most > shape["fsdp"] and state > report.available / 10:
    lines.append(
      f"--config.mesh.data={slices} --config.mesh.fsdp={most}: divides the"
      f" state, now {_gib(state)} a chip, among {most} chips instead of"
      f" {shape['fsdp']}"
    )
  free = report.available - sum(planned.sizes.values())
  excess = max(report.needed - sum(planned.sizes.values()), 0)
  wanted = excess / free if free > 0 else math.inf
  parts = next((k for k in _divisors(rows) if k >= wanted), rows)
  if training and parts > 1 and _can_accumulate(config):
    lines.append(
      f"--config.accumulate={accumulate * parts}: {rows // parts} rows a chip"
      f" at a time instead of {rows}"
    )
  remat = config["model"].get("remat")
  if training and remat in _REMAT:
    lines.append(
      f"--config.model.remat={_REMAT[remat]}: the backward pass computes more"
      " again and keeps less"
    )
  if parts > 1:
    lines.append(
      f"--config.batch={config['batch'] // parts}: {rows // parts} rows a chip"
    )
  if not lines or rows == 1:
    lines.append(
      f"--config.mesh.model={2 * shape['model']}, or a larger slice: a chip has"
      " one row of the batch already"
    )
  return lines


def _divisors(number: int) -> list[int]:
  return [k for k in range(1, number + 1) if number % k == 0]


def _can_accumulate(config: dict[str, Any]) -> bool:
  """Whether the task computes a batch in parts."""
  try:
    make_task({**config, "accumulate": 2})
  except UserError:
    return False
  return True


def _gib(size: int) -> str:
  return f"{size / 2**30:.2f} GiB"
