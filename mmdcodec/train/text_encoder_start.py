"""Starting the training of a language model from a public T5."""

from collections.abc import Sequence
from typing import Any

import flax
import jax
import numpy as np

from mmdcodec.convert import t5
from mmdcodec.errors import UserError
from mmdcodec.models.condition import Condition
from mmdcodec.models.text_condition import Text
from mmdcodec.models.text_encoder import T5Encoder
from mmdcodec.parallel import rules
from mmdcodec.train.state import TrainState


def start_with_t5(
  path: str,
  state: TrainState,
  layout: TrainState,
  conditions: Sequence[Condition],
) -> TrainState | None:
  """Puts the weights of a public T5 into the encoders of text conditions.

  Args:
    path: folder of a T5 or its id on the Hub; or of a whole model.
    state: fresh.
    layout: shardings of the state.
    conditions: of the model.

  Returns:
    The state with the T5; None if the path holds a whole model.

  Raises:
    UserError: the model has no text encoder like this T5.
  """
  found = t5.read(path)
  if found is None:
    return None
  fields, encoder = found
  texts = [each for each in conditions if isinstance(each, Text)]
  fitting = [
    each.name
    for each in texts
    if T5Encoder(**each.encoder) == T5Encoder(**fields)
  ]
  if not fitting:
    raise UserError(
      "init_from is a T5, but the encoder of the config's text condition is"
      f" {[dict(each.encoder) for each in texts]}: expected {dict(fields)}."
    )
  flat = flax.traverse_util.flatten_dict(encoder["params"], sep="/")
  new = {
    f"conditioner/{name}_encoder/{path}": array
    for name in fitting
    for path, array in flat.items()
  }

  def put(path: tuple[Any, ...], old: Any, where: Any) -> Any:
    # Trained, frozen or an average. Everything else stays where it is, spread
    # over the devices of all processes.
    place = rules.path_name(path)
    for name, array in new.items():
      if place == name or place.endswith(f"/{name}"):
        return jax.device_put(np.asarray(array, old.dtype), where)
    return old

  changed = {
    name: jax.tree_util.tree_map_with_path(
      put, getattr(state, name), getattr(layout, name)
    )
    for name in ("params", "collections", "ema")
  }
  return state.replace(**changed)
