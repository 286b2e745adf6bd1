"""How each stage of a MusicLM samples its codes."""

import math
from collections.abc import Mapping
from typing import Any

from mmdcodec.errors import UserError
from mmdcodec.generation.musiclm_parts import CHROMA, STAGES, Parts
from mmdcodec.generation.sampling import SamplingOptions
from mmdcodec.generation.story import Story

# MusicLM's, arXiv 2301.11325, 4.2.
TEMPERATURE = {"semantic": 1.0, "coarse": 0.95, "fine": 0.4}
# What guidance weighs. Without the tokens of the stage above, a stage has
# nothing to say.
_GUIDED = ("joint", "melody", CHROMA)
# Options that may differ by stage, and their values.
OPTIONS = {
  "temperature": (lambda x: 0 <= x < math.inf, "0 or above, and finite"),
  "top_k": (lambda x: 0 <= x < math.inf, "0 (all) or above"),
  "top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
  "guidance": (lambda x: 0 <= x < math.inf, "0 or above, and finite"),
}


def stage_options(
  parts: Parts, given: Mapping[str, Any], joint: Story, melody: Any
) -> dict[str, SamplingOptions]:
  """Options of each stage.

  Args:
    parts: parts of the model.
    given: values of the options by name, each a number, a mapping from stages
      to numbers, or None.
    joint: joint tokens; guidance is off if no item has any, nor a melody.
    melody: melodies, or None.

  Raises:
    UserError: a value is out of bounds, or of a stage that is not there.
  """
  has_joint = any(item is not None for each in joint.values for item in each)
  has = dict.fromkeys(_GUIDED, melody is not None) | {"joint": has_joint}
  values = {name: _by_stage(name, given.get(name), parts) for name in OPTIONS}
  found = {}
  for name in parts.stages:
    # What is not given for a stage has the value of a request without it.
    of = {option: value.get(name) for option, value in values.items()}
    guided = tuple(
      each for each in _GUIDED if has[each] and parts.hears(name, each)
    )
    temperature = of["temperature"]
    found[name] = SamplingOptions(
      temperature=TEMPERATURE[name] if temperature is None else temperature,
      top_k=int(of["top_k"] or 0),
      top_p=None if of["top_p"] in (None, 1) else float(of["top_p"]),
      guidance=float(1 if of["guidance"] is None else of["guidance"])
      if guided
      else 1.0,
      removed=guided,
    )
  return found


def _by_stage(name: str, value: Any, parts: Parts) -> dict[str, Any]:
  """Values of an option by stage."""
  if not isinstance(value, Mapping):
    value = dict.fromkeys(parts.stages, value)
  for stage in value:
    if stage not in parts.stages:
      raise UserError(
        f"{name} is given for the stage {stage!r}; this model has the stages"
        f" {', '.join(each for each in STAGES if each in parts.stages)}."
      )
  good, expected = OPTIONS[name]
  for each in value.values():
    if each is not None and not good(each):
      raise UserError(f"{name} is {each}; it must be {expected}.")
  return dict(value)
