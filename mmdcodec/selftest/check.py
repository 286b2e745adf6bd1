"""A check: what it measures, what is expected, how far it may be off."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

# Of sums of a few hundred products in float32, relative to the largest result.
FLOAT32 = 1e-5
# Step of a difference in float64.
_STEP = 1e-5


@dataclasses.dataclass(frozen=True)
class Devices:
  """The devices of a run.

  Attributes:
    tested: what is tested.
    reference: what whole models are compared with, a CPU; None if the tested
      device is one itself, or if JAX sees none.
  """

  tested: jax.Device
  reference: jax.Device | None = None

  @classmethod
  def find(cls) -> "Devices":
    """JAX's default device, beside a CPU."""
    tested = jax.devices()[0]
    if tested.platform == "cpu":
      return cls(tested)
    try:
      return cls(tested, jax.devices("cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out.
      return cls(tested)


@dataclasses.dataclass(frozen=True)
class Check:
  """One check.

  Attributes:
    name: what is checked.
    expected: what it should be, as the end of "it should ...".
    measure: returns how far it is off, by case; nothing means that the check
      does not apply to these devices.
    limit: how far it may be off.
  """

  name: str
  expected: str
  measure: Callable[[Devices], Mapping[str, float]]
  limit: float = FLOAT32

  def run(self, devices: Devices) -> "Outcome":
    """Measures; whatever is raised is a failure too.

    All is computed in full float32, whatever JAX's setting, or else a GPU in
    TF32 would fail; but see `as_users`.
    """
    start = time.perf_counter()
    found: Mapping[str, float] = {}
    problem = None
    try:
      with (
        jax.default_device(devices.tested),
        jax.default_matmul_precision("highest"),
      ):
        found = {k: float(v) for k, v in self.measure(devices).items()}
    except Exception as error:
      problem = f"{type(error).__name__}: {error}".splitlines()[0]
    return Outcome(self, found, problem, time.perf_counter() - start)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What came out of a check.

  Attributes:
    check: the check.
    found: how far each case is off.
    problem: what was raised, or None.
    seconds: how long it took, with compiling.
  """

  check: Check
  found: Mapping[str, float]
  problem: str | None
  seconds: float

  @property
  def worst(self) -> tuple[str, float]:
    """The case that is farthest off; NaN is infinitely far."""
    size = lambda case: math.inf if math.isnan(case[1]) else case[1]
    return max(self.found.items(), key=size, default=("", 0.0))

  @property
  def passed(self) -> bool:
    """Whether nothing is off by more than the limit, nor anything raised."""
    return self.problem is None and self.worst[1] <= self.check.limit

  @property
  def applies(self) -> bool:
    """Whether there was anything to measure on these devices."""
    return bool(self.found) or self.problem is not None

  def sentence(self) -> str:
    """Says what failed and what was expected."""
    start = f"{self.check.name} should {self.check.expected}"
    if self.problem is not None:
      return f"{start}, but raised {self.problem}"
    case, off = self.worst
    most = f"at most {self.check.limit:.0e}"
    return f"{start}, but {case} is off by {off:.2g} ({most})"

  def to_dict(self) -> dict[str, Any]:
    """For JSON."""
    return {
      "name": self.check.name,
      "expected": self.check.expected,
      "passed": self.passed,
      "applies": self.applies,
      "limit": self.check.limit,
      # JSON has no infinity.
      "found": {
        case: value if math.isfinite(value) else str(value)
        for case, value in self.found.items()
      },
      "problem": self.problem,
      "seconds": round(self.seconds, 3),
    }


def as_users() -> contextlib.AbstractContextManager:
  """JAX's precision as a user has it who sets nothing.

  What makes codes has to ask for full float32 by itself, so these calls are
  checked without the one that `Check.run` sets.
  """
  found: contextlib.AbstractContextManager = jax.default_matmul_precision(None)
  return found


def off(found: Any, wanted: Any) -> float:
  """The largest difference of two arrays, as a share of the largest number.

  Infinite if the shapes differ, NaN if a number is not finite.
  """
  found, wanted = np.asarray(found), np.asarray(wanted)
  if found.shape != wanted.shape:
    return math.inf
  kind = np.complex128 if np.iscomplexobj(wanted) else np.float64
  difference = np.abs(found.astype(kind) - wanted.astype(kind)).max(initial=0)
  size = np.abs(wanted).max(initial=0)
  return float(difference / (size if size else 1.0))


def differing(found: Any, wanted: Any) -> float:
  """The share of integers that are not the same; 1 if the shapes differ."""
  found, wanted = np.asarray(found), np.asarray(wanted)
  if found.shape != wanted.shape:
    return 1.0
  return float(np.mean(found != wanted))


def both_ways(
  name: str,
  function: Callable[..., jax.Array],
  reference: Callable[..., np.ndarray],
  arguments: Sequence[np.ndarray],
  weights: np.ndarray | None = None,
) -> dict[str, float]:
  """How far a function and its gradients in all arguments are off.

  Args:
    name: of the case.
    function: in JAX.
    reference: the same in float64 NumPy.
    arguments: of both.
    weights: of the result, 0 where it does not matter; random if None.
  """
  wanted = reference(*(np.asarray(x, np.float64) for x in arguments))
  if weights is None:
    weights = normal(*wanted.shape, seed=9)

  def weighted(*arguments: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = function(*arguments)
    return (y * weights).sum(), y

  every = tuple(range(len(arguments)))
  (_, y), slopes = jax.jit(jax.value_and_grad(weighted, every, has_aux=True))(
    *arguments
  )
  counts = weights != 0
  return {
    name: off(np.asarray(y)[counts], wanted[counts]),
    f"{name}, the gradients": slopes_off(
      reference, arguments, slopes, weights
    ),
  }


def slopes_off(
  reference: Callable[..., np.ndarray],
  arguments: Sequence[Any],
  slopes: Sequence[Any],
  weights: np.ndarray,
) -> float:
  """How far gradients are off, by what a small step in float64 changes.

  One step for each argument, in a random direction: what is wrong with any part
  of the gradient shows.

  Args:
    reference: float64 NumPy function of the arguments.
    arguments: where the gradients were taken.
    slopes: gradients of the sum of `weights` times its result.
    weights: of the result's shape.

  Returns:
    The largest difference of a change, as a share of the gradient's norm.
  """
  random, worst = np.random.default_rng(0), []
  for i, slope in enumerate(slopes):
    slope = np.asarray(slope, np.float64)
    direction = random.standard_normal(slope.shape)
    ends = []
    for step in (_STEP, -_STEP):
      moved = [np.asarray(each, np.float64) for each in arguments]
      moved[i] = moved[i] + step * direction
      ends.append(np.sum(weights * reference(*moved)))
    change = (ends[0] - ends[1]) / (2 * _STEP)
    # In a random direction, the change is about as large as the norm.
    size = np.linalg.norm(slope)
    worst.append(abs(np.sum(slope * direction) - change) / (size or 1.0))
  return float(np.max(worst))


def normal(*shape: int, seed: int = 0) -> Any:
  """Random float32 numbers, the same on every machine."""
  random = np.random.default_rng([seed, *shape])
  return random.standard_normal(shape).astype(np.float32)
