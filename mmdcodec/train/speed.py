"""Speed per device, use of its arithmetic (MFU) and of its memory.

MFU, model FLOP/s utilization, is the arithmetic of the model in a second over
the peak of all devices (PaLM, arXiv 2204.02311, appendix B): what a step needs,
not what its program does again to save memory (`model.remat`). The peak is that
of bfloat16, also for models that compute in float32.
"""

from collections.abc import Mapping
from typing import Any

import jax

from mmdcodec.parallel import chips, flops
from mmdcodec.train.program import Program, make_program
from mmdcodec.train.task import Task, make_task

# Measures of memory, and what devices call them.
MEMORY = {"hbm_gib": "bytes_in_use", "hbm_peak_gib": "peak_bytes_in_use"}
# How models that recompute nothing say so.
_NO_REMAT = {bool: False, str: "none"}


class Speed:
  """Counts what steps do, and relates it to time and devices.

  Attributes:
    flops: floating-point operations of all steps so far; None without a known
      peak.
  """

  def __init__(
    self,
    task: Task,
    config: Mapping[str, Any],
    program: Program,
    mesh: jax.sharding.Mesh,
  ):
    """Keeps what it needs.

    Args:
      task: the task of the run.
      config: config of the run.
      program: the functions of the run.
      mesh: mesh of the run.
    """
    self._task, self._config = task, config
    self._program, self._mesh = program, mesh
    self._devices = mesh.devices.flatten()
    chip = chips.find(self._devices[0].device_kind)
    self._peak = chip.peak * len(self._devices) if chip else None
    # By kind of step, see `add`.
    self._each: dict[tuple[bool, str | None], float] = {}
    self.flops = 0.0 if chip else None

  def add(self, given: Any, phase: str | None) -> None:
    """Counts a step.

    The first one of a kind is traced, and a second time if it recomputes what
    it has computed before; without a known peak, nothing is.

    Args:
      given: the batch, or the batches of a step with history.
      phase: phase of the step, see `Task.phase`.
    """
    if self.flops is None:
      return
    kind = isinstance(given, tuple), phase
    if kind not in self._each:
      shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        given,
      )
      self._each[kind] = self._count(shapes, phase)
    self.flops += self._each[kind]

  def _count(self, given: Any, phase: str | None) -> float:
    """Counts the floating-point operations that a step needs."""
    program, remat = self._program, self._config["model"].get("remat")
    if remat and remat != "none":
      model = {**self._config["model"], "remat": _NO_REMAT[type(remat)]}
      config = {**self._config, "model": model}
      program = make_program(make_task(config), config, self._mesh)
    long = isinstance(given, tuple)
    step = program.long_step if long else program.step
    assert step is not None
    return flops.count(step.trace(program.abstract, given, phase).jaxpr)

  def values(self, speed: float, flops: float | None) -> dict[str, float]:
    """Returns measures by name.

    Args:
      speed: steps per second.
      flops: floating-point operations per second.
    """
    batch, count = self._config["batch"], len(self._devices)
    audio = speed * batch * self._task.audio_seconds
    found = {
      "steps_per_second": speed,
      "audio_per_second": audio,
      "audio_per_second_per_device": audio / count,
    }
    if (positions := self._task.positions) is not None:
      found["tokens_per_second_per_device"] = speed * batch * positions / count
    if self._peak is not None and flops is not None:
      found["mfu"] = flops / self._peak
    return {**found, **memory()}


def memory() -> dict[str, float]:
  """Returns memory of this process's fullest device in GiB: now, and its peak.

  Empty where devices do not say, such as CPUs.
  """
  known = [s for d in jax.local_devices() if (s := d.memory_stats())]
  return {
    name: max(stats[key] for stats in known) / 2**30
    for name, key in MEMORY.items()
    if known and all(key in stats for stats in known)
  }
