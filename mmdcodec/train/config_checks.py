"""Checks every setting of a run before anything is built.

The tables below name every setting of `configs/common.py` and say which numbers
it may have; what is not named here is refused, with the nearest name. Only at
the top may a config have keys of the user's own, such as notes, unless one
looks like a misspelt setting. Choices between words, and `model`, are checked
by the code that reads them.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from mmdcodec import bounds
from mmdcodec.bounds import (
  LARGEST,
  Check,
  either,
  flag,
  fraction,
  list_of,
  mapping,
  number,
  one_of,
  whole,
)
from mmdcodec.errors import UserError
from mmdcodec.losses import contrastive, masking, spectral
from mmdcodec.models.condition import KINDS, Condition
from mmdcodec.train import settings
from mmdcodec.train.task import TASKS

# What int32 can hold: the device computes with it.
LARGEST_WHOLE = 2**31 - 1


def _fits_data(value: Any) -> bool:
  """Whether data sets are paths, or weights by path."""
  if not isinstance(value, str | list | tuple | Mapping):
    return False
  found = settings.parse_datasets(value)
  return not isinstance(found, Mapping) or all(
    map(NOT_NEGATIVE.holds, found.values())
  )


COUNT, STEPS = whole(1, LARGEST_WHOLE), whole(0, LARGEST_WHOLE)
# Keys of JAX hold 32 bits of the seed.
SEED = whole(0, 2**32 - 1)
NUMBER = number(-LARGEST, LARGEST)
NOT_NEGATIVE = number(0, LARGEST)
ABOVE_0 = Check(lambda x: NOT_NEGATIVE.holds(x) and x > 0, "a number above 0")
AT_LEAST_1 = number(1, LARGEST)
SHARE = number(0, 1)
DECAY = fraction()
AXIS = either(COUNT, Check(one_of((-1,)).holds, "-1 (the rest)"))
GAINS = Check(list_of(NUMBER, 2, 2).holds, "two numbers, (lowest, highest)")
DATA = Check(
  _fits_data, "paths of data sets, whose weights are numbers of at least 0"
)
TEXT = Check(lambda value: isinstance(value, str), "a name")
NAMED = Check(
  lambda value: isinstance(value, Mapping) and TEXT.holds(value.get("name")),
  "a mapping with a `name`",
)
MEMBERS = Check(
  lambda value: (
    isinstance(value, list | tuple)
    and all(TEXT.holds(v) or NAMED.holds(v) for v in value)
  ),
  "a list of names or of mappings with a `name`",
)
# Checked by the code that reads it.
ANY = Check(lambda value: True, "anything")

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
  "seed": SEED,
  "steps": COUNT,
  "batch": COUNT,
  "model": ANY,
  "data": {"train": DATA, "valid": DATA, "valid_batches": COUNT},
  "optimizer": _OPTIMIZER,
  "ema": DECAY,
  "accumulate": COUNT,
  "max_skipped": COUNT,
  "hang_timeout": NOT_NEGATIVE,
  "mesh": {"data": AXIS, "fsdp": AXIS, "model": AXIS, "dcn_data": AXIS},
  "init_from": ANY,
  "log_every": COUNT,
  "eval_every": COUNT,
  "save_every": COUNT,
  "keep": COUNT,
  "profile": {"start": STEPS, "steps": STEPS},
  "compilation_cache": ANY,
  "wandb_project": TEXT,
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
      "form": one_of(spectral.FORMS),
      "windows": spectral.WINDOWS,
      "mels": spectral.MELS,
    },
    "stft": {"weight": NOT_NEGATIVE, "windows": spectral.WINDOWS},
    "commitment": {"weight": NOT_NEGATIVE},
    "adversarial": {"weight": NOT_NEGATIVE},
    "features": {"weight": NOT_NEGATIVE},
    "independence": {
      "weight": NOT_NEGATIVE,
      "estimator": ANY,
      "kernel": {"name": TEXT, "radii": ANY, "relative": flag()},
      "pattern": NAMED,
      "streams": ANY,
      "standardize": flag(),
      "keep_scale": flag(),
      "start": STEPS,
      "ramp": STEPS,
      "every": COUNT,
      "rows": STEPS,
    },
  },
  "freeze": one_of(("", "encoder")),
  "quantizer_start": STEPS,
  "adversarial": {
    "discriminators": MEMBERS,
    "dtype": ANY,
    "loss": ANY,
    "relative": flag(),
    "every": AT_LEAST_1,
    "start": STEPS,
    "warmup": STEPS,
    "optimizer": _OPTIMIZER,
  },
  "balancer": {"on": flag(), "decay": DECAY, "total_norm": ABOVE_0},
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
  "chroma_dropout": SHARE,
  "freeze": ANY,
  "lora": {"rank": STEPS, "alpha": ABOVE_0, "on": ANY},
}

MULAN: dict[str, Any] = {
  **RUN,
  "data": {
    **RUN["data"],
    "gain_db": GAINS,
    "tag_share": SHARE,
    "tags": Check(list_of(TEXT, 1 << 16, 0).holds, "a list of names of tags"),
  },
  "loss": one_of(contrastive.KINDS),
}

SEMANTIC: dict[str, Any] = {
  **RUN,
  "data": {**RUN["data"], "seconds": ABOVE_0, "gain_db": GAINS, "mix": SHARE},
  "masking": {
    "kind": one_of(tuple(masking.MASKS)),
    "share": SHARE,
    "frames": COUNT,
    "noise": NOT_NEGATIVE,
  },
  "losses": {
    "prediction": {"weight": NOT_NEGATIVE},
    "unmasked": {"weight": NOT_NEGATIVE},
    "contrastive": {"weight": NOT_NEGATIVE, "temperature": ABOVE_0},
    "diversity": {"weight": NOT_NEGATIVE},
  },
  "gumbel": {"first": ABOVE_0, "last": ABOVE_0},
}

MELODY: dict[str, Any] = {
  **RUN,
  "data": {
    **RUN["data"],
    "melodies": COUNT,
    "renditions": whole(2, 1 << 16),
    "keep": flag(),
  },
  "margin": number(1e-3, 4),
}

# The settings of the tasks of this package.
TABLES = {
  "codec": CODEC,
  "lm": LM,
  "mulan": MULAN,
  "semantic": SEMANTIC,
  "melody_embedding": MELODY,
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
  bounds.check("task", name := config["task"], TEXT)
  bounds.check("model", config["model"], mapping())
  rules = dict(TABLES.get(name, RUN))
  # A task of the user may have settings of its own here.
  own = () if name in TASKS else ("", "data")
  if name == "lm":
    conditions = config["model"].get("conditions") or {}
    bounds.check("model.conditions", conditions, mapping())
    # Every condition of the model may be dropped, and one of the user's own
    # kinds may read settings of its own.
    rules |= {f"{condition}_dropout": SHARE for condition in conditions}
    if any(_is_of_user(*item) for item in conditions.items()):
      own = ("data",)
  _check_section(config, rules, "", own)
  _check_together(config)


def _is_of_user(name: str, condition: Any) -> bool:
  """Whether the kind of a condition is not one of this package."""
  bounds.check(f"the condition {name!r}", condition, mapping())
  kind = KINDS.get(str(condition.get("kind", name)), Condition)
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
      _check_unknown(name, str(key), rules, free=not path)
    elif rule is None:
      continue
    elif isinstance(rule, Mapping):
      _check_section(value, rule, name, own)
    else:
      bounds.check(name, value, rule)


def _check_unknown(
  name: str, key: str, rules: Mapping[str, Any], *, free: bool
) -> None:
  """Raises a UserError for a setting that no table names.

  Args:
    name: full name of the setting.
    key: its last part.
    rules: the settings beside it.
    free: whether names unlike any of these are the user's own.
  """
  # Not as far as "tags" is from "task", if it may be the user's own.
  if near := difflib.get_close_matches(key, rules, 1, 0.78 if free else 0.6):
    nearest = name.removesuffix(key) + near[0]
    raise UserError(f"there is no setting {name}; did you mean {nearest}?")
  if not free:
    raise UserError(
      f"there is no setting {name}; expected one of {', '.join(rules)}."
    )


def _check_together(config: Mapping[str, Any]) -> None:
  """Raises a UserError for settings that do not fit together."""
  losses = config.get("losses", {}) if config["task"] == "codec" else {}
  for name, loss in losses.items():
    if "weight" not in loss:
      raise UserError(
        f"losses.{name} is {loss!r}; it must be a dict with a `weight`, which"
        " may be 0."
      )
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
