"""Makes optimizers and learning-rate schedules from a config."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmdcodec.errors import UserError

SCHEDULES = ("constant", "cosine", "linear", "exponential", "inverse_sqrt")
OPTIMIZERS = ("adam", "adamw", "sgd")


def make_schedule(config: Mapping[str, Any], steps: int) -> optax.Schedule:
  """Makes a schedule: learning rate by step.

  Args:
    config: `learning_rate` (peak), `schedule` (one of SCHEDULES), `warmup`
      (steps of linear warm-up), `final` (last learning rate as a share of the
      peak, for cosine, linear and exponential).
    steps: length of the run.

  Raises:
    UserError: an unknown schedule, or a warm-up as long as the run.
  """
  peak, kind = config["learning_rate"], config["schedule"]
  warmup, final = config["warmup"], config["final"]
  if warmup >= steps:
    raise UserError(
      f"optimizer.warmup is {warmup} steps, but the run has only {steps}."
    )
  rest = steps - warmup
  if kind == "constant":
    after = optax.constant_schedule(peak)
  elif kind == "cosine":
    after = optax.cosine_decay_schedule(peak, rest, alpha=final)
  elif kind == "linear":
    after = optax.linear_schedule(peak, peak * final, rest)
  elif kind == "exponential":
    if not final > 0:
      raise UserError(
        "optimizer.final must be above 0 for the exponential schedule: the"
        " learning rate falls to that share of its peak."
      )
    after = optax.exponential_decay(peak, rest, final)
  elif kind == "inverse_sqrt":
    # Continues from the end of the warm-up without a jump (Vaswani et al. 2017,
    # arXiv 1706.03762, 5.3).
    start = max(warmup, 1)
    # `join_schedules` also evaluates this in the warm-up, at negative steps.
    after = lambda step: peak * (start / (start + jnp.maximum(step, 0))) ** 0.5
  else:
    raise UserError(
      f"optimizer.schedule is {kind!r}; it must be one of {list(SCHEDULES)}."
    )
  if not warmup:
    return after
  # Starts at peak / warmup, so that the first update is not lost.
  ramp = lambda step: peak * (step + 1) / warmup
  return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(
  config: Mapping[str, Any], steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Makes the optimizer of a config, with gradient clipping.

  Args:
    config: `name` (one of OPTIMIZERS), `b1`, `b2`, `weight_decay` (adamw only;
      applies to arrays with two or more axes that are not scales or biases),
      `clip` (global norm of the gradient; 0: none), and the keys that
      `make_schedule` reads.
    steps: length of the run.

  Returns:
    The transformation, and its schedule for the log.

  Raises:
    UserError: an unknown optimizer or schedule.
  """
  schedule = make_schedule(config, steps)
  name = config["name"]
  if name == "adam":
    inner = optax.adam(schedule, b1=config["b1"], b2=config["b2"])
  elif name == "adamw":
    inner = optax.adamw(
      schedule,
      b1=config["b1"],
      b2=config["b2"],
      weight_decay=config["weight_decay"],
      mask=lambda params: jax.tree_util.tree_map_with_path(_decays, params),
    )
  elif name == "sgd":
    inner = optax.sgd(schedule, momentum=config["b1"])
  else:
    raise UserError(
      f"optimizer.name is {name!r}; it must be one of {list(OPTIMIZERS)}."
    )
  # Always present, so that a run can be resumed with a different `clip`.
  clip = config["clip"]
  clip = optax.clip_by_global_norm(clip) if clip else optax.identity()
  return optax.chain(clip, inner), schedule


def _decays(path: tuple[Any, ...], leaf: jax.Array) -> bool:
  """Whether weight decay applies to a parameter.

  Names decide, because norms of stacked blocks have two axes as well.
  """
  return leaf.ndim >= 2 and path[-1].key not in (
    "scale",
    "bias",
    "distance_bias",
  )
