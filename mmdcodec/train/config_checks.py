"""Checks every setting of a run before anything is built.

The tables below name every setting of `configs/common.py` and say which numbers
it may have; what is not named here is refused, with the nearest name. Choices
between words, and `model`, are checked by the code that reads them.
"""

import difflib
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mmdcodec.errors import UserError
from mmdcodec.models.condition import KINDS, Condition
from mmdcodec.train import settings
from mmdcodec.train.task import TASKS

# What float32 and int32 can hold: the device computes with them.
LARGEST, LARGEST_WHOLE = 3e38, 2**31 - 1


class Rule(NamedTuple):
  """What a setting may be.

  Attributes:
    fits: whether a value is allowed.
    words: the allowed values, as the end of "it must be".
  """

  fits: Callable[[Any], bool]
  words: str


def _is_number(value: Any) -> bool:
  """Whether a value is a number that float32 holds."""
  real = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return real and abs(value) <= LARGEST


def _whole(least: int) -> Rule:
  """Whole numbers from `least` on."""

  def fits(value: Any) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and least <= value <= LARGEST_WHOLE

  return Rule(fits, f"a whole number of at least {least}")


def _number(fits: Callable[[float], bool], words: str) -> Rule:
  """Numbers within bounds."""
  return Rule(lambda value: _is_number(value) and fits(value), words)


def _fits_data(value: Any) -> bool:
  """Whether the weights of data sets are numbers."""
  found = settings.parse_datasets(value)
  return not isinstance(found, Mapping) or all(
    map(NOT_NEGATIVE.fits, found.values())
  )


COUNT, STEPS = _whole(1), _whole(0)
NOT_NEGATIVE = _number(lambda x: x >= 0, "a number of at least 0")
ABOVE_0 = _number(lambda x: x > 0, "a number above 0")
AT_LEAST_1 = _number(lambda x: x >= 1, "a number of at least 1")
SHARE = _number(lambda x: 0 <= x <= 1, "a share, from 0 to 1")
DECAY = _number(lambda x: 0 <= x < 1, "a number from 0 up to below 1")
AXIS = Rule(
  lambda x: _whole(-1).fits(x) and x != 0,
  "a whole number of at least 1, or -1 (the rest)",
)
WINDOWS = Rule(
  lambda x: (
    isinstance(x, list | tuple)
    and bool(x)
    and all(COUNT.fits(n) and n % 4 == 0 for n in x)
  ),
  "a list of multiples of 4",
)
GAINS = Rule(
  lambda x: (
    isinstance(x, list | tuple) and len(x) == 2 and all(map(_is_number, x))
  ),
  "two numbers, (lowest, highest)",
)
DATA = Rule(_fits_data, "data sets whose weights are numbers of at least 0")
# Checked by the code that reads it.
ANY = Rule(lambda value: True, "anything")

_OPTIMIZER = {
  "name": ANY,
  "learning_rate": NOT_NEGATIVE,
  "b1": DECAY,
  "b2": DECAY,
  "weight_decay": NOT_NEGATIVE,
  "clip": NOT_NEGATIVE,
  "schedule": ANY,
  "warmup": STEPS,
  "final": NOT_NEGATIVE,
}

# The settings of any run.
RUN: dict[str, Any] = {
  "task": ANY,
  "seed": STEPS,
  "steps": COUNT,
  "batch": COUNT,
  "model": ANY,
  "data": {"train": DATA, "valid": DATA, "valid_batches": COUNT},
  "optimizer": _OPTIMIZER,
  "ema": DECAY,
  "accumulate": COUNT,
  "max_skipped": COUNT,
  "mesh": {"data": AXIS, "fsdp": AXIS, "model": AXIS},
  "init_from": ANY,
  "log_every": COUNT,
  "eval_every": COUNT,
  "save_every": COUNT,
  "keep": COUNT,
  "profile": {"start": STEPS, "steps": STEPS},
  "compilation_cache": ANY,
}

CODEC: dict[str, Any] = {
  **RUN,
  "data": {
    **RUN["data"],
    "seconds": ABOVE_0,
    "gain_db": GAINS,
    "mix": SHARE,
  },
  "losses": {
    "waveform": {"weight": NOT_NEGATIVE},
    "mel": {
      "weight": NOT_NEGATIVE,
      "form": ANY,
      "windows": WINDOWS,
      "mels": COUNT,
    },
    "stft": {"weight": NOT_NEGATIVE, "windows": WINDOWS},
    "commitment": {"weight": NOT_NEGATIVE},
    "adversarial": {"weight": NOT_NEGATIVE},
    "features": {"weight": NOT_NEGATIVE},
    "independence": {
      "weight": NOT_NEGATIVE,
      "estimator": ANY,
      "kernel": {"name": ANY, "radii": ANY, "relative": ANY},
      "pattern": ANY,
      "streams": ANY,
      "standardize": ANY,
      "keep_scale": ANY,
      "start": STEPS,
      "ramp": STEPS,
      "every": COUNT,
      "rows": STEPS,
    },
  },
  "adversarial": {
    "discriminators": ANY,
    "dtype": ANY,
    "loss": ANY,
    "relative": ANY,
    "every": AT_LEAST_1,
    "start": STEPS,
    "warmup": STEPS,
    "optimizer": _OPTIMIZER,
  },
  "balancer": {"on": ANY, "decay": DECAY, "total_norm": ABOVE_0},
}

LM: dict[str, Any] = {
  **RUN,
  "data": {
    **RUN["data"],
    "frame_rate": ABOVE_0,
    "streams": ANY,
    "text_tokens": COUNT,
  },
  "codec": ANY,
  "condition_dropout": SHARE,
  "text_dropout": SHARE,
  "melody_dropout": SHARE,
  "freeze": ANY,
  "lora": {"rank": STEPS, "alpha": ABOVE_0, "on": ANY},
}


def check(config: Mapping[str, Any]) -> None:
  """Checks the names and numbers of a config.

  Args:
    config: config of a run, as nested dicts with today's keys. Keys may be
      missing, as in those of earlier versions.

  Raises:
    UserError: a setting is unknown or cannot have its value, or two do not fit
      together.
  """
  name = config["task"]
  rules = dict({"codec": CODEC, "lm": LM}.get(name, RUN))
  # A task of the user may have settings of its own here.
  own = () if name in TASKS else ("", "data")
  if name == "lm":
    conditions = config["model"].get("conditions") or {}
    # Every condition of the model may be dropped, and one of the user's own
    # kinds may read settings of its own.
    rules |= {f"{condition}_dropout": SHARE for condition in conditions}
    if any(map(_is_of_user, conditions.values())):
      own = ("data",)
  _check_section(config, rules, "", own)
  _check_together(config)


def _is_of_user(condition: Mapping[str, Any]) -> bool:
  """Whether the kind of a condition is not one of this package."""
  kind = KINDS.get(condition.get("kind", ""), Condition)
  return not kind.__module__.startswith("mmdcodec.")


def _check_section(
  section: Any, rules: Mapping[str, Any], path: str, own: Sequence[str]
) -> None:
  """Checks a dict of settings and those inside it.

  Args:
    section: the settings.
    rules: rules by key.
    path: full name of the section.
    own: sections that may have other settings.
  """
  if not isinstance(section, Mapping):
    raise UserError(
      f"{path} is {section!r}; it must be a dict of {', '.join(rules)}."
    )
  for key, value in section.items():
    name, rule = f"{path}.{key}" if path else str(key), rules.get(key)
    if rule is None and path not in own:
      _check_unknown(name, str(key), rules)
    elif rule is None:
      continue
    elif isinstance(rule, Mapping):
      _check_section(value, rule, name, own)
    elif not rule.fits(value):
      raise UserError(f"{name} is {value!r}; it must be {rule.words}.")


def _check_unknown(name: str, key: str, rules: Mapping[str, Any]) -> None:
  """Raises a UserError for a setting that no table names.

  Args:
    name: full name of the setting.
    key: its last part.
    rules: the settings beside it.
  """
  if near := difflib.get_close_matches(key, rules, 1):
    nearest = name.removesuffix(key) + near[0]
    raise UserError(f"there is no setting {name}; did you mean {nearest}?")
  raise UserError(
    f"there is no setting {name}; expected one of {', '.join(rules)}."
  )


def _check_together(config: Mapping[str, Any]) -> None:
  """Raises a UserError for settings that do not fit together."""
  parts = config.get("accumulate", 1)
  if config["batch"] % parts:
    raise UserError(
      f"accumulate is {parts}; the batch of {config['batch']} must be a"
      " multiple of it."
    )
  if config["data"]["valid"] and config["save_every"] % config["eval_every"]:
    raise UserError(
      f"save_every is {config['save_every']} and eval_every is"
      f" {config['eval_every']}: save at a multiple of eval_every, so that"
      " every checkpoint has its measures and the best one can be found."
    )
