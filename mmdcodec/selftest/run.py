"""All checks, then the benchmarks, within some minutes."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax

import mmdcodec
from mmdcodec.selftest import (
  attending,
  codes,
  families,
  language_models,
  layers,
  losses,
  objectives,
  positions,
  spectra,
  speed,
  stored,
  streams,
  training,
  training_speed,
)
from mmdcodec.selftest.check import Check, Devices, Outcome
from mmdcodec.train.preemption import Preempted

# What is slow or rarely at fault comes last, where the time may be over.
CHECKS: tuple[Check, ...] = (
  *codes.CHECKS,
  *layers.CHECKS,
  *positions.CHECKS,
  *attending.CHECKS,
  *spectra.CHECKS,
  *losses.CHECKS,
  *streams.CHECKS,
  *objectives.CHECKS,
  *families.CHECKS,
  *language_models.CHECKS,
  *stored.CHECKS,
  *training.CHECKS,
)

# The most valuable first.
BENCHMARKS: dict[str, Callable[[speed.Speeds], list[speed.Row]]] = {
  "lm": speed.of_lm,
  "steps": training_speed.of_steps,
  "loop": training_speed.of_loop,
  "codec": speed.of_codec,
  "independence": speed.of_losses,
  "data": speed.of_data,
}
# What is left out where JAX sees no CPU beside the tested device.
_WITH_CPU = "comparisons with the CPU"


@dataclasses.dataclass(frozen=True)
class Report:
  """What came out.

  Attributes:
    device: name of what was tested.
    platform: its platform.
    count: how many of them there are.
    reference: name of what models were compared with, or None.
    outcomes: of the checks that ran.
    speeds: what the device can do, or None if the time was over.
    rows: speeds of the benchmarks that ran.
    skipped: names of checks and benchmarks that the time did not suffice for.
    too_large: names of benchmarks that did not fit into memory.
    problems: of benchmarks that failed, by name.
    seconds: of all.
  """

  device: str
  platform: str
  count: int
  reference: str | None
  outcomes: tuple[Outcome, ...]
  speeds: speed.Speeds | None
  rows: tuple[speed.Row, ...]
  skipped: tuple[str, ...]
  too_large: tuple[str, ...]
  problems: dict[str, str]
  seconds: float

  @property
  def alone(self) -> bool:
    """Whether models had no CPU to be compared with."""
    return self.platform != "cpu" and self.reference is None

  @property
  def left_out(self) -> list[str]:
    """What was not done, for whatever reason."""
    return [*self.skipped, *self.too_large, *[_WITH_CPU] * self.alone]

  @property
  def failed(self) -> tuple[Outcome, ...]:
    """The checks that failed."""
    return tuple(one for one in self.outcomes if not one.passed)

  @property
  def passed(self) -> bool:
    """Whether nothing failed."""
    return not self.failed and not self.problems

  def sentences(self) -> list[str]:
    """One for each failure: what was expected, and what was found."""
    return [one.sentence() + "." for one in self.failed] + [
      f"the benchmark {name} should run, but raised {problem}."
      for name, problem in self.problems.items()
    ]

  def to_dict(self) -> dict[str, Any]:
    """For JSON."""
    return {
      "mmdcodec": mmdcodec.__version__,
      "jax": jax.__version__,
      "device": self.device,
      "platform": self.platform,
      "devices": self.count,
      "reference": self.reference,
      "passed": self.passed,
      "complete": not self.left_out,
      "checks": [one.to_dict() for one in self.outcomes],
      "measured": self.speeds and self.speeds.to_dict(),
      "benchmarks": [row.to_dict() for row in self.rows],
      "skipped": self.left_out,
      "problems": self.problems,
      "seconds": round(self.seconds, 1),
    }

  def __str__(self) -> str:
    """The tables."""
    lines = [f"{'check':<42}{'off by':>9}{'limit':>9}{'seconds':>9}"]
    for one in self.outcomes:
      result = f"{one.worst[1]:9.1e}" if one.applies else f"{'-':>9}"
      verdict = "" if one.passed else "  FAILED"
      lines.append(
        f"{one.check.name:<42}{result}{one.check.limit:9.0e}"
        f"{one.seconds:9.1f}{verdict}"
      )
    if self.speeds is not None:
      can = self.speeds
      lines += [
        "",
        f"measured: float32 {can.machine.flops / 1e9:.0f} GFLOP/s (as the"
        f" device likes it {can.fastest / 1e9:.0f}), bfloat16"
        f" {can.bfloat16 / 1e9:.0f}, bandwidth"
        f" {can.machine.bandwidth / 1e9:.0f} GB/s",
      ]
    if self.rows:
      lines += ["", f"{'speed':<46}{'ms':>9}{'peak':>6}{'bytes':>7}"]
      share = lambda x: "-" if x is None else f"{x:.0%}"
      lines += [
        f"{row.name:<46}{row.seconds * 1e3:9.2f}{share(row.peak):>6}"
        f"{share(row.bandwidth):>7}  {row.rate}"
        for row in self.rows
      ]
    if self.skipped:
      lines += ["", f"no time was left for: {', '.join(self.skipped)}"]
    if self.too_large:
      lines += ["", f"too little memory for: {', '.join(self.too_large)}"]
    if self.alone:
      lines += [
        "",
        f"left out: {_WITH_CPU}; JAX_PLATFORMS hides the CPU from JAX. Unset it"
        f' or set it to "{self.platform},cpu".',
      ]
    return "\n".join(lines)


def run(
  minutes: float,
  show: Callable[[int, int, str], None] = lambda done, total, name: None,
  devices: Devices | None = None,
) -> Report:
  """Runs what there is time for.

  A check that has begun is finished, so it may take a little longer.

  Args:
    minutes: after these, nothing new begins.
    show: called with (done, total, name) before each check or benchmark.
    devices: what to test; JAX's default device if None.
  """
  start = time.monotonic()
  devices = Devices.find() if devices is None else devices
  over = lambda: time.monotonic() - start >= 60 * minutes
  total, skipped = len(CHECKS) + len(BENCHMARKS), []
  outcomes: list[Outcome] = []
  for i, check in enumerate(CHECKS):
    if over():
      skipped.append(check.name)
      continue
    show(i, total, check.name)
    outcomes.append(check.run(devices))
  speeds, rows, too_large, problems = None, [], [], {}
  for i, (name, benchmark) in enumerate(BENCHMARKS.items()):
    if over():
      skipped.append(f"bench {name}")
      continue
    show(len(CHECKS) + i, total, f"bench {name}")
    try:
      speeds = speeds or speed.Speeds.measure()
      rows += benchmark(speeds)
    except Preempted:
      # The training in `bench loop` has taken the signal; all shall end.
      raise
    except Exception as error:
      if "RESOURCE_EXHAUSTED" in str(error):
        # Of a small device, which computes right nevertheless.
        too_large.append(f"bench {name}")
        continue
      problems[name] = f"{type(error).__name__}: {error}".splitlines()[0]
  return Report(
    device=devices.tested.device_kind,
    platform=devices.tested.platform,
    count=len(jax.devices(devices.tested.platform)),
    reference=devices.reference and devices.reference.device_kind,
    outcomes=tuple(outcomes),
    speeds=speeds,
    rows=tuple(rows),
    skipped=tuple(skipped),
    too_large=tuple(too_large),
    problems=problems,
    seconds=time.monotonic() - start,
  )
