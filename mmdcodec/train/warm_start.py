"""Starts a run from the weights of a model, or of a part of one."""

import functools
import pathlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np

from mmdcodec import bundle
from mmdcodec.convert import hub, t5
from mmdcodec.errors import UserError
from mmdcodec.models import bert, low_rank
from mmdcodec.models.condition import Condition
from mmdcodec.models.text_condition import Text
from mmdcodec.models.text_encoder import T5Encoder
from mmdcodec.models.weights import FITTED
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import rules
from mmdcodec.store import workdir as run_files
from mmdcodec.train.state import TrainState
from mmdcodec.train.task import Task

# Parameters of a language model that its conditions need.
_OF_CONDITIONS = re.compile(r"(^|/)(conditioner|cross_attention|cross_norm)/")


@functools.lru_cache(maxsize=1)
def _read(path: str) -> bundle.Contents:
  """Reads a model once for all ways to begin with it."""
  return bundle.read(path, discriminators=True)


def start_from(
  task: Task,
  state: TrainState,
  path: str,
  layout: TrainState,
  say: Callable[[str], None],
) -> tuple[TrainState, bool]:
  """Loads the weights of a bundle or of another run into a fresh state.

  Loads the parameters and collections of the model, and the parameters of the
  discriminators if both have the same ones; or only a part of the model, if the
  task supports that.

  Args:
    task: the task of the run.
    state: freshly initialized state.
    path: `config["init_from"]`.
    layout: shardings of the state.
    say: called with a line of text for the user.

  Returns:
    The state, and whether the path holds a whole model.

  Raises:
    UserError: there is no model at the path, or it does not fit.
  """
  try:
    begun = task.start_with_part(path, state, layout)
    if begun is not None:
      say(f"begins with a part of {path}; the other parameters are new")
      return begun, False
    begun_from = _read(path)
  finally:
    _read.cache_clear()  # It may have gigabytes.
  discriminators = begun_from.discriminators
  # Codebooks that were fitted after a training are not trained further.
  left = {*FITTED} - {*state.collections} | {*task.parts}
  whole = {k: v for k, v in begun_from.variables.items() if k not in left}
  key = jax.random.key(task.config["seed"])
  variables = dict(task.to_trained(whole, key))

  def put(name: str, old: Any, new: Any, where: Any) -> Any:
    if not _same_shapes(old, new):
      raise UserError(
        f"init_from: the {name} of {path} do not fit this model; the model"
        " settings must be the same, but for a language model's conditions."
      )
    return jax.tree.map(
      lambda a, o, s: mesh_lib.put(np.asarray(a, o.dtype), s), new, old, where
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
  return state.replace(**found), True


def read_assets(task: Task, needed: Collection[str]) -> dict[str, bytes]:
  """Reads files that a model needs besides weights, such as a tokenizer.

  A run that goes on has its own, so that the model which it started from need
  not be there any more. Before, that model has them.

  Args:
    task: the task of the run.
    needed: names of files, from `bundle.ASSETS`.

  Returns:
    Contents of those that were found, by name.
  """
  found: dict[str, bytes] = {}
  if needed and task.workdir and run_files.has_checkpoint(task.workdir):
    found = bundle.read_assets(task.workdir)
  source = task.config["init_from"]
  if source and {*needed} - {*found}:
    # Directly if possible, to avoid reading the weights as well.
    folder = hub.find(source)
    found = bundle.read_assets(folder)
    if {*needed} - {*found} and not t5.is_t5(folder):
      found = bundle.read(source).assets
  return {name: found[name] for name in needed if name in found}


def keep_assets(workdir: pathlib.Path, assets: Mapping[str, bytes]) -> None:
  """Copies what `read_assets` found into a workdir.

  A file that is there already is not written again: other processes of a run
  that goes on may be reading it.
  """
  kept = bundle.read_assets(workdir)
  for name, contents in assets.items():
    if kept.get(name) != contents:
      (workdir / name).write_bytes(contents)


def start_with_t5(
  path: str,
  state: TrainState,
  layout: TrainState,
  conditions: Sequence[Condition],
) -> TrainState | None:
  """Loads the weights of a public T5 into the encoders of text conditions.

  Args:
    path: folder or Hub id of a T5 or of a whole model.
    state: freshly initialized state.
    layout: shardings of the state.
    conditions: conditions of the model.

  Returns:
    The state with the T5; None if the path holds a whole model.

  Raises:
    UserError: no text encoder of the model has the shape of this T5.
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

  return _with_arrays(state, layout, new)


def start_with_bert(
  path: str,
  state: TrainState,
  layout: TrainState,
  fields: Mapping[str, Any],
  place: str,
) -> TrainState | None:
  """Loads the weights of a public text encoder into part of a model.

  Args:
    path: folder or Hub id of a text encoder of BERT's form, its bundle, or a
      whole model.
    state: freshly initialized state.
    layout: shardings of the state.
    fields: fields of the model's `Bert`.
    place: path of its parameters.

  Returns:
    The state with the encoder; None if the path holds another kind of model.

  Raises:
    UserError: the encoder has other fields than the model's.
  """
  found = _read(path)
  if found.config.get("kind") != "text":
    return None
  theirs = found.config["model"]
  if bert.from_config(fields) != bert.from_config(theirs):
    raise UserError(
      f"init_from is a text encoder with {dict(theirs)}, but that of the config"
      f" has {dict(fields)}: set model.text.bert to the former."
    )
  flat = flax.traverse_util.flatten_dict(found.variables["params"], sep="/")
  new = {f"{place}/{name}": array for name, array in flat.items()}
  return _with_arrays(state, layout, new)


def start_with_decoder(
  path: str, state: TrainState, layout: TrainState
) -> TrainState | None:
  """Loads what a language model with other conditions knows of the codes.

  This is everything but the conditions: the embeddings of codes, the blocks
  without their cross-attention, and the heads.

  Args:
    path: bundle or run of a language model.
    state: freshly initialized state.
    layout: shardings of the state.

  Returns:
    The state with these parameters; None if the conditions are the same, or if
    the rest does not fit.
  """
  flat = lambda tree: flax.traverse_util.flatten_dict(tree, sep="/")
  theirs = flat(_read(path).variables.get("params", {}))
  ours = flat(state.params) | flat(state.collections.get(low_rank.FROZEN, {}))
  # Low-rank additions are new in any case.
  ours = {k: x for k, x in ours.items() if not k.startswith(low_rank.LORA)}
  if _same_shapes(theirs, ours):
    return None
  new, known = (
    {k: x for k, x in flat.items() if not _OF_CONDITIONS.search(k)}
    for flat in (theirs, ours)
  )
  if not _same_shapes(new, known):
    return None
  return _with_arrays(state, layout, new)


def _with_arrays(
  state: TrainState, layout: TrainState, new: Mapping[str, Any]
) -> TrainState:
  """Replaces trained, frozen and averaged parameters, by their paths."""

  def put(path: tuple[Any, ...], old: Any, where: Any) -> Any:
    array = new.get(rules.path_name(path).removeprefix(f"{low_rank.FROZEN}/"))
    # Other arrays are sharded over all processes and must not be moved.
    if array is None:
      return old
    return mesh_lib.put(np.asarray(array, old.dtype), where)

  changed = {
    name: jax.tree_util.tree_map_with_path(
      put, getattr(state, name), getattr(layout, name)
    )
    for name in ("params", "collections", "ema")
  }
  return state.replace(**changed)


def _same_shapes(one: Any, other: Any) -> bool:
  return jax.tree.map(np.shape, one) == jax.tree.map(np.shape, other)
