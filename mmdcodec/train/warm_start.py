"""Starting a run from the weights of a trained model."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mmdcodec import bundle
from mmdcodec.errors import UserError
from mmdcodec.train.state import TrainState
from mmdcodec.train.task import Task


def start_from(
  task: Task,
  state: TrainState,
  path: str,
  layout: TrainState,
  say: Callable[[str], None],
) -> TrainState:
  """A fresh state with the weights of a bundle or of another run.

  These are the parameters and collections of the model, and the parameters of
  discriminators if both have the same ones; or a part of the model, where the
  task takes one.

  Args:
    task: of the run.
    state: fresh.
    path: `config["init_from"]`.
    layout: shardings of the state.
    say: takes a line of text for the user.

  Raises:
    UserError: there is no model at the path, or it is another one.
  """
  begun = task.start_with_part(path, state, layout)
  if begun is not None:
    return begun
  whole, discriminators = bundle.load_variables(path)
  whole = {k: v for k, v in whole.items() if k not in task.parts}
  key = jax.random.key(task.config["seed"])
  variables = dict(task.to_trained(whole, key))

  def put(name: str, old: Any, new: Any, where: Any) -> Any:
    if not _same_shapes(old, new):
      raise UserError(
        f"init_from: the {name} of {path} do not fit this model; the model"
        " settings must be the same."
      )
    return jax.tree.map(
      lambda a, o, s: jax.device_put(np.asarray(a, o.dtype), s), new, old, where
    )

  params = variables.pop("params")
  found = {
    "params": put("parameters", state.params, params, layout.params),
    "collections": put(
      "codebooks", state.collections, variables, layout.collections
    ),
  }
  if state.ema is not None:
    found["ema"] = put("parameters", state.ema, params, layout.ema)
  ours = (state.extra or {}).get("adversary")
  if ours is not None and not _same_shapes(ours.params, discriminators):
    found_ones = "no" if discriminators is None else "other"
    say(
      f"{path} has {found_ones} discriminators:"
      " they start from scratch (adversarial.warmup lets them learn before the"
      " codec hears them)"
    )
  elif ours is not None:
    where = layout.extra["adversary"].params
    judges = put("discriminators", ours.params, discriminators, where)
    found["extra"] = {**state.extra, "adversary": ours.replace(params=judges)}
  return state.replace(**found)


def _same_shapes(one: Any, other: Any) -> bool:
  return jax.tree.map(np.shape, one) == jax.tree.map(np.shape, other)
